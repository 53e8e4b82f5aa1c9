"""What a function uses beside its argument: closure cells, defaults, globals, bound objects.

Captured values that can be encoded join the derivation under their path; torch modules are
the models; what has no rule is listed as *not keyed*. The walk goes through functions,
classes and objects of the function's own top-level package or ``__main__`` and stops at others.

What is met again is not walked again; that it is the same is a value, ``{"same": path}``: in
``[x, y, x]`` and ``[x, y, y]`` the walk finds the same things, and the functions differ.
"""

from __future__ import annotations

import collections
import enum
import functools
import inspect
import logging
import threading
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from castore import arrays
from castore.canonical import Json
from castore.errors import FingerprintError
from castore.identity.code import digest_code, global_names
from castore.identity.model import is_module
from castore.identity.values import encode, type_name

__all__ = ["Captures", "capture"]

_CONTAINERS = (dict, list, tuple)
#: What Python keeps slots in, and classes whose attributes are their items.
_SLOTS = (types.MemberDescriptorType, types.GetSetDescriptorType)
_TABLES = (enum.Enum, tuple)
_LEFT_OUT = (logging.Logger, logging.LoggerAdapter, type(threading.Lock()), type(threading.RLock()))


@dataclass
class Captures:
    """What was found.

    Attributes
    ----------
    values : dict[str, Json]
        Encoded values by path: ``"fn.layer"``, ``"global LAYER"``.
    functions : dict[str, str]
        Code digests by path, of the function itself and of its own package's it calls;
        ``"as <path>"`` for one that was found before.
    models : dict[str, Any]
        Torch modules by path.
    not_keyed : dict[str, str]
        Type names by path, of what has no rule.
    """

    values: dict[str, Json] = field(default_factory=dict)
    functions: dict[str, str] = field(default_factory=dict)
    models: dict[str, Any] = field(default_factory=dict)
    not_keyed: dict[str, str] = field(default_factory=dict)


def capture(fn: Any, loader: object = None) -> Captures:
    """Walk through `fn`.

    Parameters
    ----------
    fn : callable
        A function, method, partial or callable object.
    loader : object, optional
        The loader `fn` will be given; where it is captured too it is left out.
    """
    walk = _Walk(fn, loader)
    walk.callable(fn, "fn")
    return walk.found


class _Walk:
    def __init__(self, fn: Any, loader: object) -> None:
        self.found = Captures()
        self._own = {"__main__", _package_of(fn)} - {"builtins", None}
        self._globals = getattr(_innermost(fn), "__globals__", None)
        self._loader = loader
        self._met: dict[int, tuple[str, Any]] = {}  # holds what it met: ids are used again

    def callable(self, fn: Any, path: str) -> None:
        if isinstance(fn, functools.partial):
            self.value(fn.func, path) if path != "fn" else self.callable(fn.func, path)
            for index, value in enumerate(fn.args):
                self.value(value, f"{path}.args[{index}]")
            for name, value in fn.keywords.items():
                self.value(value, f"{path}.{name}")
        elif isinstance(fn, types.MethodType):
            self.callable(fn.__func__, path)
            self.value(fn.__self__, "self" if path == "fn" else f"{path}.self")
        elif isinstance(fn, types.FunctionType):
            self.function(fn, path)
        elif is_module(fn):
            self.found.models[path] = fn
        else:
            self.value(fn, path)

    def function(self, fn: types.FunctionType, path: str) -> None:
        held = {**_cells(fn), **_defaults(fn)}
        first = self._meet(fn, path)
        if first is not None:
            if first != path:
                self.found.functions[path] = f"as {first}"
                if held:  # code may be named by a suffix; values never are
                    self.found.values[path] = {"same": first}
            return
        wrapped = getattr(fn, "__wrapped__", None)
        self.found.functions[path] = digest_code(fn)
        for name, value in held.items():
            if value is not wrapped:
                self.value(value, f"{path}.{name}")
        # Functions of another module of the package have globals of their own under equal names.
        where = "" if fn.__globals__ is self._globals else f"{path}: "
        for name in global_names(fn.__code__):
            if name in fn.__globals__:
                self.value(fn.__globals__[name], f"{where}global {name}")
        if isinstance(wrapped, types.FunctionType):
            self.function(wrapped, f"{path}.__wrapped__")

    def value(self, value: Any, path: str) -> None:
        if value is self._loader or self._is_left_out(value):
            return
        if is_module(value):
            self.found.models[path] = value
        elif isinstance(value, (types.MethodType, functools.partial)) or (
            isinstance(value, types.FunctionType) and self._is_own(value)
        ):
            self.callable(value, path)
        elif isinstance(value, types.FunctionType):
            self.found.values[path] = {"function": f"{value.__module__}.{value.__qualname__}"}
        elif not isinstance(value, types.ModuleType):
            self.data(value, path)

    def data(self, value: Any, path: str) -> None:
        try:
            self.found.values[path] = encode(value, path)
        except FingerprintError:
            self.container(value, path)
            return
        if isinstance(value, type):
            self.kind(value, path)
        elif self._is_own(value):
            self.kind(type(value), f"{path}.__class__")

    def container(self, value: Any, path: str) -> None:
        """Go through what cannot be encoded whole; list what cannot be gone through."""
        first = self._meet(value, path)
        if first is not None:
            if first != path:
                self.found.values[path] = {"same": first}
            return
        items = _items(value)
        own = self._is_own(value)
        if items is None and not (own and hasattr(value, "__dict__")):
            self.found.not_keyed[path] = type_name(type(value))
            return
        if type(value) not in _CONTAINERS:
            self.found.values[f"{path}.__class__"] = encode(type(value))
        for where, item in (items or {}).items():
            self.value(item, f"{path}{where}")
        if own:
            self.object(value, path)
        elif getattr(value, "__dict__", None):
            self.found.not_keyed[path] = type_name(type(value))

    def object(self, value: Any, path: str) -> None:
        """Go through an object of the function's own package: attributes and class."""
        self.kind(type(value), f"{path}.__class__")
        for name, item in _attributes(value).items():
            if name == "__wrapped__" or not _is_special(name):  # Pythons copy unequal sets of names
                self.value(item, f"{path}.{name}")
        if self._is_own(type(value)) and _native(type(value)) not in (object, *_CONTAINERS):
            # A number, text or set holds more than its attributes.
            self.found.not_keyed[path] = type_name(type(value))

    def kind(self, kind: type, path: str) -> None:
        """Go through what a class and its bases of the function's own package define."""
        bases = [base for base in kind.__mro__ if self._is_own(base)]
        first = self._meet(kind, path) if bases else None
        if first is not None:
            if first != path:
                self.found.values[path] = {"same": first}
            return
        for base in bases:
            where = path if base is kind else f"{path}.{type_name(base)}"
            for name, item in vars(base).items():
                self.defined(item, base, name, f"{where}.{name}")

    def defined(self, item: Any, kind: type, name: str, path: str) -> None:
        """Go through an attribute of a class, unless Python or the library put it there."""
        function = _function_in(item)
        if function is not None:
            found = inspect.unwrap(function)
            inner = found if isinstance(found, types.FunctionType) else function
            own = _top(inner.__globals__.get("__name__")) in self._own
            if own and not inner.__code__.co_qualname.startswith("__create_fn__"):  # a dataclass's
                self.function(function, path)
        elif not (_is_special(name) or isinstance(item, _SLOTS) or issubclass(kind, _TABLES)):
            self.value(item, path)

    def _meet(self, value: Any, path: str) -> str | None:
        """Return the path at which `value` was met before, or None."""
        if id(value) in self._met:
            return self._met[id(value)][0]
        self._met[id(value)] = (path, value)
        return None

    def _is_own(self, value: Any) -> bool:
        return _package_of(value) in self._own

    def _is_left_out(self, value: Any) -> bool:
        torch = arrays.torch()
        if torch is not None:
            grad = (torch.no_grad, torch.enable_grad, torch.inference_mode, torch.set_grad_enabled)
            if isinstance(value, (torch.device, torch.Generator, *grad)):
                return True
        infrastructure = getattr(type(value), "castore_infrastructure", False) is True
        return infrastructure or isinstance(value, _LEFT_OUT)


def _items(value: Any) -> dict[str, Any] | None:
    """Return what a container holds by place, None for what is no container to go through."""
    if isinstance(value, Mapping) and all(isinstance(key, (str, int)) for key in value):
        items = {f"[{key!r}]": item for key, item in value.items()}
        if isinstance(value, collections.defaultdict):
            items[".default_factory"] = value.default_factory
        return items
    if isinstance(value, (list, tuple)):
        return {f"[{index}]": item for index, item in enumerate(value)}
    return None


def _attributes(value: Any) -> dict[str, Any]:
    """Return an object's attributes, of its ``__dict__`` and of slots."""
    slots = {
        name: item.__get__(value)
        for kind in type(value).__mro__
        for name, item in vars(kind).items()
        if isinstance(item, types.MemberDescriptorType) and hasattr(value, name)
    }
    return {**slots, **getattr(value, "__dict__", {})}


def _native(kind: type) -> type:
    """Return the base that says how objects lie in memory: the first not written in Python."""
    return next(
        base
        for base in kind.__mro__
        if isinstance(vars(base).get("__new__"), types.BuiltinMethodType)
    )


def _is_special(name: str) -> bool:
    return name == "_abc_impl" or (name.startswith("__") and name.endswith("__"))


def _function_in(item: Any) -> types.FunctionType | None:
    """Return the function behind a class attribute: a method, a class method, a property."""
    for name in ("__func__", "fget"):
        item = getattr(item, name, item)
    if isinstance(item, functools.cached_property):
        item = item.func
    return item if isinstance(item, types.FunctionType) else None


def _innermost(fn: Any) -> Any:
    while isinstance(fn, (functools.partial, types.MethodType)):
        fn = fn.func if isinstance(fn, functools.partial) else fn.__func__
    return fn


def _package_of(value: Any) -> str | None:
    return _top(getattr(_innermost(value), "__module__", None) or type(value).__module__)


def _top(module: Any) -> str | None:
    return module.partition(".")[0] if isinstance(module, str) else None


def _cells(fn: types.FunctionType) -> dict[str, Any]:
    found = {}
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # the enclosing function has not assigned it yet
            continue
    return found


def _defaults(fn: types.FunctionType) -> dict[str, Any]:
    code = fn.__code__
    positional = code.co_varnames[: code.co_argcount]
    values = fn.__defaults__ or ()
    found = dict(zip(positional[len(positional) - len(values) :], values, strict=True))
    return {**found, **(fn.__kwdefaults__ or {})}
