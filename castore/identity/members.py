"""What Python objects are made of: cells, defaults, items, attributes, what a class defines."""

from __future__ import annotations

import collections
import dataclasses
import functools
import types
from collections.abc import Mapping
from typing import Any

from castore import arrays

__all__ = [
    "attributes",
    "attributes_of_module",
    "cells",
    "defaults",
    "factories",
    "function_in",
    "is_generated",
    "is_module",
    "is_special",
    "items",
    "native",
    "uncompiled",
]


def cells(fn: types.FunctionType) -> dict[str, Any]:
    """Return the closure of a function by name."""
    found = {}
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # the enclosing function has not assigned it yet
            continue
    return found


def defaults(fn: types.FunctionType) -> dict[str, Any]:
    """Return the default arguments of a function by name."""
    code = fn.__code__
    positional = code.co_varnames[: code.co_argcount]
    values = fn.__defaults__ or ()
    found = dict(zip(positional[len(positional) - len(values) :], values, strict=True))
    return {**found, **(fn.__kwdefaults__ or {})}


def items(value: Any) -> dict[str, Any] | None:
    """Return what a container holds by place, None for what is no container to go through."""
    if isinstance(value, Mapping) and all(isinstance(key, (str, int)) for key in value):
        found = {f"[{key!r}]": item for key, item in value.items()}
        if isinstance(value, collections.defaultdict):
            found[".default_factory"] = value.default_factory
        return found
    if isinstance(value, (list, tuple)):
        return {f"[{index}]": item for index, item in enumerate(value)}
    return None


def attributes(value: Any) -> dict[str, Any]:
    """Return an object's attributes, of its ``__dict__`` and of slots."""
    slots = {
        name: item.__get__(value)
        for kind in type(value).__mro__
        for name, item in vars(kind).items()
        if isinstance(item, types.MemberDescriptorType) and hasattr(value, name)
    }
    return {**slots, **getattr(value, "__dict__", {})}


def attributes_of_module() -> frozenset[str]:
    """Return the attributes that every torch module has of its own."""
    torch: Any = arrays.torch()
    # torch.compile marks the module it wraps.
    return frozenset({*vars(torch.nn.Module()), "_compiled_call_impl", "_is_torch_compile"})


def native(kind: type) -> type:
    """Return the base that says how objects lie in memory: the first not written in Python."""
    return next(
        base
        for base in kind.__mro__
        if isinstance(vars(base).get("__new__"), types.BuiltinMethodType)
    )


def is_generated(fn: types.FunctionType) -> bool:
    """Tell whether Python wrote a method, of a data class or named tuple: versions differ."""
    home = str(fn.__globals__.get("__name__"))
    return fn.__code__.co_qualname.startswith("__create_fn__") or home.startswith("namedtuple_")


def is_special(name: str) -> bool:
    """Tell whether Python, not the author, gave an attribute its name."""
    return name == "_abc_impl" or (name.startswith("__") and name.endswith("__"))


def factories(kind: type) -> dict[str, Any]:
    """Return what makes the defaults of a data class's own fields, by their names."""
    fields = vars(kind).get("__dataclass_fields__", {})
    missing = dataclasses.MISSING
    return {n: f.default_factory for n, f in fields.items() if f.default_factory is not missing}


def function_in(item: Any) -> types.FunctionType | None:
    """Return the function behind a class attribute: a method, a class method, a property."""
    for name in ("__func__", "fget"):
        item = getattr(item, name, item)
    if isinstance(item, functools.cached_property):
        item = item.func
    return item if isinstance(item, types.FunctionType) else None


def uncompiled(fn: Any) -> Any:
    """Return the function or bound method that torch.compile was given, or else `fn`."""
    while isinstance(fn, types.FunctionType) and "__wrapped__" in vars(fn):
        if not str(fn.__globals__.get("__name__")).startswith("torch._dynamo."):
            break
        fn = vars(fn)["__wrapped__"]
    return fn


def is_module(value: object) -> bool:
    """Tell whether `value` is a torch module."""
    torch = arrays.torch()
    return torch is not None and isinstance(value, torch.nn.Module)
