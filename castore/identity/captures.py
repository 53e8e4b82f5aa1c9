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
    walk = _Walk(_package_of(fn), loader)
    walk.callable(fn, "fn")
    return walk.found


class _Walk:
    def __init__(self, package: str | None, loader: object) -> None:
        self.found = Captures()
        self._package = package
        self._loader = loader
        self._seen: set[int] = set()

    def callable(self, fn: Any, path: str) -> None:
        if isinstance(fn, functools.partial):
            self.callable(fn.func, path)
            for index, value in enumerate(fn.args):
                self.value(value, f"{path}.args[{index}]")
            for name, value in fn.keywords.items():
                self.value(value, f"{path}.{name}")
        elif isinstance(fn, types.MethodType):
            self.value(fn.__self__, "self")
            self.callable(fn.__func__, path)
        elif isinstance(fn, types.FunctionType):
            self.function(fn, path)
        elif is_module(fn):
            self.found.models[path] = fn
        elif not isinstance(fn, (types.BuiltinFunctionType, type)):
            self.object(fn, path)

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
        for name in global_names(fn.__code__):
            if name in fn.__globals__:
                self.value(fn.__globals__[name], f"global {name}")
        if isinstance(wrapped, types.FunctionType):
            self.function(wrapped, f"{path}.__wrapped__")

    def value(self, value: Any, path: str) -> None:
        if value is self._loader or self._is_left_out(value):
            return
        if is_module(value):
            self.found.models[path] = value
        elif isinstance(value, (types.FunctionType, types.MethodType, functools.partial)):
            if self._is_own(value):
                self.callable(value, path)
        elif isinstance(value, (types.ModuleType, type, types.BuiltinFunctionType)):
            return
        else:
            self.data(value, path)

    def data(self, value: Any, path: str) -> None:
        try:
            self.found.values[path] = encode(value, path)
        except FingerprintError:
            if isinstance(value, (Mapping, list, tuple)) and id(value) in self._seen:
                return
            if isinstance(value, Mapping):
                self._seen.add(id(value))
                for key, item in value.items():
                    self.value(item, f"{path}[{key!r}]")
            elif isinstance(value, (list, tuple)):
                self._seen.add(id(value))
                for index, item in enumerate(value):
                    self.value(item, f"{path}[{index}]")
            else:
                self.object(value, path)

    def object(self, value: Any, path: str) -> None:
        """Go through an object of the function's own package; list any other."""
        if id(value) in self._seen:
            return
        self._seen.add(id(value))
        if not self._is_own(value) or not hasattr(value, "__dict__"):
            self.found.not_keyed[path] = type_name(type(value))
            return
        for name, item in vars(value).items():
            self.value(item, f"{path}.{name}")
        call = type(value).__dict__.get("__call__")
        if path == "fn" and isinstance(call, types.FunctionType):
            self.function(call, path)

    def _is_own(self, value: Any) -> bool:
        package = _package_of(value)
        return package == "__main__" or (package is not None and package == self._package)

    def _is_left_out(self, value: Any) -> bool:
        torch = arrays.torch()
        if torch is not None and isinstance(value, (torch.device, torch.Generator)):
            return True
        return (
            isinstance(value, _LEFT_OUT) or getattr(value, "castore_infrastructure", False) is True
        )


def _package_of(fn: Any) -> str | None:
    while isinstance(fn, functools.partial):
        fn = fn.func
    module = getattr(fn, "__module__", None) or type(fn).__module__
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
