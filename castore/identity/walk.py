"""The walk through code and objects: what functions, transforms and models are made of.

It goes through the user's own functions, classes and objects by code and attributes, through
objects of libraries that castore knows by type and attributes, and stops at others.

What is met again is not walked again; that it is the same is a value, ``{"same": path}``: in
``[x, y, x]`` and ``[x, y, y]`` the walk finds the same things, and they differ.
"""

from __future__ import annotations

import argparse
import enum
import functools
import inspect
import logging
import threading
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from castore import arrays
from castore.errors import CastoreError, FingerprintError
from castore.identity.code import digest_code, global_names, imported_names
from castore.identity.findings import Captures
from castore.identity.lasting import lasting
from castore.identity.libraries import (
    innermost,
    is_described,
    is_library,
    name_in_library,
    package_of,
    top,
    type_name,
)
from castore.identity.members import (
    attributes,
    attributes_of_module,
    cells,
    defaults,
    factories,
    function_in,
    is_generated,
    is_module,
    is_special,
    items,
    native,
    uncompiled,
)
from castore.identity.protocols import as_whole
from castore.identity.transforms import is_random, is_transform
from castore.identity.values import Encoder

__all__ = ["Walk"]

_CONTAINERS = (dict, list, tuple)
#: Most of what is met, and nothing more special.
_PLAIN = frozenset([type(None), bool, int, float, str])
#: Python's objects that are their attributes.
_NAMESPACES = (argparse.Namespace, types.SimpleNamespace)
#: What Python keeps slots in, and classes whose attributes are their items.
_SLOTS = (types.MemberDescriptorType, types.GetSetDescriptorType)
_TABLES = (enum.Enum, tuple)
_LEFT_OUT = (logging.Logger, logging.LoggerAdapter, type(threading.Lock()), type(threading.RLock()))


class Walk:
    """A walk through functions and objects.

    Parameters
    ----------
    own : callable
        Tells of a top-level package whether it is gone through by its code.
    loader : object, optional
        What is left out wherever it is met.

    Attributes
    ----------
    found : Captures
        What was found so far.
    """

    def __init__(self, own: Callable[[str | None], bool], loader: object = None) -> None:
        self.found = Captures()
        self._own = own
        self._loader = loader
        self._globals: object = None
        self._encoder = Encoder(self.name_of)
        self._met: dict[int, tuple[str, Any]] = {}  # holds what it met: ids are used again

    def start(self, value: Any, path: str) -> None:
        """Walk through what a function or object is, then what it holds, under `path`.

        Raises
        ------
        FingerprintError
            If it is nested too deep.
        """
        self._globals = getattr(innermost(value), "__globals__", None)
        try:
            self._callable(value, path) if callable(value) else self.value(value, path)
        except RecursionError:
            msg = f"{path} holds something nested too deep to be described"
            raise FingerprintError(msg) from None
        except (CastoreError, MemoryError):
            raise
        except Exception as error:  # a type of the user's that cannot even be asked its name
            msg = f"{path} cannot be looked at ({type(error).__name__}: {error})"
            raise FingerprintError(msg) from error

    def name_of(self, kind: type) -> str:
        """Return what a type is called: the user's own without their module."""
        return kind.__qualname__ if self._own(top(kind.__module__)) else type_name(kind)

    def _callable(self, fn: Any, path: str) -> None:
        if isinstance(fn, functools.partial):
            self.value(fn.func, path) if path != "fn" else self._callable(fn.func, path)
            for index, value in enumerate(fn.args):
                self.value(value, f"{path}.args[{index}]")
            for name, value in fn.keywords.items():
                self.value(value, f"{path}.{name}")
        elif isinstance(fn, types.MethodType):
            self._callable(fn.__func__, path)
            self.value(fn.__self__, "self" if path == "fn" else f"{path}.self")
        elif isinstance(fn, types.FunctionType) and name_in_library(fn) is None:
            self._function(fn, path)
        else:
            self.value(fn, path)

    def _function(self, fn: types.FunctionType, path: str) -> None:
        fn = uncompiled(fn)
        held = {**cells(fn), **defaults(fn)}
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
        self._loaded(fn, path)
        if isinstance(wrapped, types.FunctionType):
            self._function(wrapped, f"{path}.__wrapped__")

    def _loaded(self, fn: types.FunctionType, path: str) -> None:
        """Go through what the code of `fn` loads from its module, and from modules there."""
        # Functions of another module of the package have globals of their own under equal names.
        where = "" if fn.__globals__ is self._globals else f"{path}: "
        found: dict[str, Any] = {}
        for dotted in global_names(fn.__code__):
            first, *rest = dotted.split(".")
            if first == "__file__":
                self.found.not_keyed[f"{where}global {first}"] = "a path of this machine"
            elif first in fn.__globals__ and not is_special(first):
                found.update(self._reached(first, fn.__globals__[first], rest))
        for name, value in found.items():
            self.value(value, f"{where}global {name}")
        for module in imported_names(fn.__code__):
            self.found.libraries.add(module)
            if not is_library(top(module)):
                self.found.not_keyed[f"{where}import {module}"] = "module"

    def _reached(self, name: str, value: Any, rest: list[str]) -> Iterator[tuple[str, Any]]:
        """Yield what ``name.rest`` reads: attributes of modules, and of the user's functions."""
        library = False
        for part in rest:
            if isinstance(value, types.ModuleType):
                self.found.libraries.add(value.__name__)
                library = is_library(top(value.__name__))
            elif isinstance(value, types.FunctionType) and part in vars(value):
                yield name, value
            else:
                break
            if not hasattr(value, part):
                return
            name, value = f"{name}.{part}", getattr(value, part)
        if not library or isinstance(value, types.ModuleType):
            yield name, value

    def value(self, value: Any, path: str) -> None:
        """Go through `value`, held at `path`."""
        if type(value) in _PLAIN:
            self.found.values[path] = self._encoder.encode(value, path)
            return
        try:
            self._value(value, path)
        except RecursionError:
            raise
        except Exception:  # whatever an object of the user's raises when it is looked at
            self.found.not_keyed[path] = type_name(type(value))

    def _value(self, value: Any, path: str) -> None:
        if value is self._loader or _is_left_out(value):
            return
        whole = as_whole(value)
        if whole is not None:
            self.found.values[path] = whole
        elif is_module(value) and not is_transform(value):
            self.found.models[path] = value
        elif isinstance(value, (types.MethodType, functools.partial)) or (
            isinstance(value, types.FunctionType) and self._is_own(value)
        ):
            self._callable(value, path)
        elif isinstance(value, types.FunctionType):
            self._foreign(value, path)
        elif isinstance(value, types.ModuleType):
            self.found.libraries.add(value.__name__)
        elif isinstance(value, types.BuiltinMethodType) and name_in_library(value) is None:
            self.found.values[path] = {"method": value.__name__}
            self.value(value.__self__, f"{path}.self")
        else:
            self._data(value, path)

    def _foreign(self, fn: types.FunctionType, path: str) -> None:
        """Go through what a function of another package holds; its code goes by its name."""
        self.found.libraries.add(fn.__module__)
        self.found.values[path] = {"function": f"{fn.__module__}.{fn.__qualname__}"}
        if name_in_library(fn) is None and self._meet(fn, path) is None:
            for name, value in {**cells(fn), **defaults(fn)}.items():
                self.value(value, f"{path}.{name}")

    def _data(self, value: Any, path: str) -> None:
        self._encoder.kinds.clear()
        try:
            self.found.values[path] = self._encoder.encode(value, path)
        except FingerprintError:
            self._container(value, path)
            return
        for kind in list(self._encoder.kinds):
            if kind is value:
                self.kind(kind, path)
            elif self._is_own(kind):
                held = "" if kind is type(value) else f"<{kind.__qualname__}>."
                self.kind(kind, f"{path}.{held}__class__")
            else:
                self.found.libraries.add(kind.__module__)

    def _container(self, value: Any, path: str) -> None:
        """Go through what cannot be encoded whole; list what cannot be gone through."""
        first = self._meet(value, path)
        if first is not None:
            if first != path:
                self.found.values[path] = {"same": first}
            return
        held = items(value)
        own = self._is_own(value)
        known = own or is_described(top(type(value).__module__)) or type(value) in _NAMESPACES
        if held is None and not (known and _has_attributes(value)):
            self.found.not_keyed[path] = type_name(type(value))
            return
        if is_random(value):
            self.found.random[path] = type_name(type(value))
        if type(value) not in _CONTAINERS:
            self.found.values[f"{path}.__class__"] = {"type": self.name_of(type(value))}
        if held is not None and isinstance(value, Mapping):  # code may follow their order
            self.found.values[f"{path}.keys()"] = [self._encoder.encode(k, path) for k in value]
        for where, item in (held or {}).items():
            self.value(item, f"{path}{where}")
        if own:
            self.kind(type(value), f"{path}.__class__")
        else:
            self.found.libraries.add(type(value).__module__)
        if known and type(value) not in _CONTAINERS:
            self._object(value, path)
        elif getattr(value, "__dict__", None):
            self.found.not_keyed[path] = type_name(type(value))

    def _object(self, value: Any, path: str) -> None:
        """Go through the attributes of an object."""
        ignored = attributes_of_module() - {"_modules"} if is_module(value) else frozenset()
        for name, item in lasting(value).items():
            # Pythons copy unequal sets of special names.
            if name not in ignored and (name == "__wrapped__" or not is_special(name)):
                self.value(item, f"{path}.{name}")
        package = top(type(value).__module__)
        written = self._own(package) or is_described(package)
        if written and native(type(value)) not in (object, *_CONTAINERS):
            # A number, text or set holds more than its attributes.
            self.found.not_keyed[path] = type_name(type(value))

    def kind(self, kind: type, path: str, ignored: frozenset[str] = frozenset()) -> None:
        """Go through what a class and its own bases define, beside the names in `ignored`."""
        bases = [base for base in kind.__mro__ if self._is_own(base)]
        first = self._meet(kind, path) if bases else None
        if first is not None:
            if first != path:
                self.found.values[path] = {"same": first}
            return
        for base in bases:
            where = path if base is kind else f"{path}.{self.name_of(base)}"
            others = [type_name(b) for b in base.__bases__ if not self._is_own(b)]
            if others != ["builtins.object"]:
                self.found.values[f"{where}.__bases__"] = others
            for name, item in {**vars(base), **factories(base)}.items():
                if name not in ignored:
                    self._defined(item, base, name, f"{where}.{name}")

    def _defined(self, item: Any, kind: type, name: str, path: str) -> None:
        """Go through an attribute of a class, unless Python or the library put it there."""
        function = function_in(item)
        if function is not None:
            found = inspect.unwrap(function)
            inner = found if isinstance(found, types.FunctionType) else function
            package = top(inner.__globals__.get("__name__"))
            if is_generated(inner):
                return
            if self._own(package):
                self._function(function, path)
            elif name_in_library(function) or not is_library(package):
                self._assigned(function, kind, name, path)
        elif not isinstance(item, _SLOTS):
            self._assigned(getattr(item, "__func__", item), kind, name, path)

    def _assigned(self, item: Any, kind: type, name: str, path: str) -> None:
        """Go through what somebody set as an attribute of a class, unless Python did."""
        if not (is_special(name) or issubclass(kind, _TABLES)):
            self.value(item, path)

    def _meet(self, value: Any, path: str) -> str | None:
        """Return the path at which `value` was met before, or None."""
        if id(value) in self._met:
            return self._met[id(value)][0]
        self._met[id(value)] = (path, value)
        return None

    def _is_own(self, value: Any) -> bool:
        if isinstance(value, types.FunctionType) and getattr(value, "__module__", None) is None:
            return True  # made by exec: nobody could find it by a name
        return self._own(package_of(value))


def _has_attributes(value: Any) -> bool:
    return hasattr(value, "__dict__") or bool(attributes(value))


def _is_left_out(value: Any) -> bool:
    torch = arrays.torch()
    if torch is not None:
        grad = (torch.no_grad, torch.enable_grad, torch.inference_mode, torch.set_grad_enabled)
        if isinstance(value, (torch.device, *grad)):
            return True
    infrastructure = getattr(type(value), "castore_infrastructure", False) is True
    return infrastructure or isinstance(value, _LEFT_OUT)
