"""What a function uses beside its argument: closure cells, defaults, globals, bound objects.

Captured values that can be encoded join the derivation under their path; torch modules are
the models; what has no rule is listed as *not keyed*. The walk goes through functions and
objects of the function's own top-level package or ``__main__`` and stops at others.
"""

from __future__ import annotations

import functools
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

_LEFT_OUT = (logging.Logger, logging.LoggerAdapter, type(threading.Lock()), type(threading.RLock()))


@dataclass
class Captures:
    """What was found.

    Attributes
    ----------
    values : dict[str, Json]
        Encoded values by path: ``"fn.layer"``, ``"global LAYER"``.
    functions : dict[str, str]
        Code digests by path, of the function itself and of its own package's it calls.
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
        self._package = _package_of(fn)
        self._globals = getattr(_innermost(fn), "__globals__", None)
        self._loader = loader
        self._seen: set[int] = set()

    def callable(self, fn: Any, path: str) -> None:
        if isinstance(fn, functools.partial):
            self.value(fn.func, path) if path != "fn" else self.callable(fn.func, path)
            for index, value in enumerate(fn.args):
                self.value(value, f"{path}.args[{index}]")
            for name, value in fn.keywords.items():
                self.value(value, f"{path}.{name}")
        elif isinstance(fn, types.MethodType):
            self.value(fn.__self__, "self" if path == "fn" else f"{path}.self")
            self.callable(fn.__func__, path)
        elif isinstance(fn, types.FunctionType):
            self.function(fn, path)
        elif is_module(fn):
            self.found.models[path] = fn
        else:
            self.value(fn, path)

    def function(self, fn: types.FunctionType, path: str) -> None:
        if id(fn) in self._seen:
            return
        self._seen.add(id(fn))
        wrapped = getattr(fn, "__wrapped__", None)
        self.found.functions[path] = digest_code(fn)
        for name, value in _cells(fn).items():
            if value is not wrapped:
                self.value(value, f"{path}.{name}")
        for name, value in _defaults(fn).items():
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

    def container(self, value: Any, path: str) -> None:
        """Go through what cannot be encoded whole; list what cannot be gone through."""
        if id(value) in self._seen:
            return
        self._seen.add(id(value))
        if isinstance(value, Mapping) and all(isinstance(key, (str, int)) for key in value):
            for key, item in value.items():
                self.value(item, f"{path}[{key!r}]")
        elif isinstance(value, (list, tuple)):
            for index, item in enumerate(value):
                self.value(item, f"{path}[{index}]")
        elif self._is_own(value) and hasattr(value, "__dict__"):
            self.object(value, path)
        else:
            self.found.not_keyed[path] = type_name(type(value))

    def object(self, value: Any, path: str) -> None:
        """Go through an object of the function's own package: its class, methods, attributes."""
        self.found.values[f"{path}.__class__"] = encode(type(value))
        for name, item in vars(value).items():
            self.value(item, f"{path}.{name}")
        for kind in type(value).__mro__:
            if _package_of(kind) in (self._package, "__main__"):
                for name, item in vars(kind).items():
                    method = _function_in(item)
                    if method is not None:
                        self.function(method, f"{path}.{kind.__qualname__}.{name}")

    def _is_own(self, value: Any) -> bool:
        package = _package_of(value)
        return package == "__main__" or (package is not None and package == self._package)

    def _is_left_out(self, value: Any) -> bool:
        torch = arrays.torch()
        if torch is not None:
            grad = (torch.no_grad, torch.enable_grad, torch.inference_mode, torch.set_grad_enabled)
            if isinstance(value, (torch.device, torch.Generator, *grad)):
                return True
        infrastructure = getattr(type(value), "castore_infrastructure", False) is True
        return infrastructure or isinstance(value, _LEFT_OUT)


def _function_in(item: Any) -> types.FunctionType | None:
    """Return the function behind a class attribute: a method, a class method, a property."""
    found = getattr(item, "__func__", None) or getattr(item, "fget", None) or item
    return found if isinstance(found, types.FunctionType) else None


def _innermost(fn: Any) -> Any:
    while isinstance(fn, (functools.partial, types.MethodType)):
        fn = fn.func if isinstance(fn, functools.partial) else fn.__func__
    return fn


def _package_of(value: Any) -> str | None:
    module = getattr(_innermost(value), "__module__", None) or type(value).__module__
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
