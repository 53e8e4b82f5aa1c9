"""What a torch module is beside the values of its tensors.

Of every submodule by name: its class, training flag, hooks, the names of its parameters,
buffers and submodules in their order, and every attribute that torch.nn.Module does not own.
Classes of libraries go by name, the user's by what they define, objects by class and attributes,
functions by code; what torch wrote (graphs, scripts) by its code. A module or tensor that is
met in an attribute goes by its name, also if it belongs to no submodule.
"""

from __future__ import annotations

import dataclasses
import sys
import types
import weakref
from collections.abc import Mapping
from typing import Any

from castore import arrays
from castore.canonical import Json
from castore.errors import FingerprintError
from castore.identity.captures import Walk, is_module
from castore.identity.graphs import kind_named, script_function, script_module, spelled
from castore.identity.incidental import APART_FROM_RUNNING, incidental
from castore.identity.libraries import is_library, name_in_library, package_of
from castore.identity.members import attributes, attributes_of_module, is_special
from castore.identity.protocols import UNSAID, said_by
from castore.identity.values import encode, type_name

__all__ = ["Structure", "unwrap"]

_PLAIN = frozenset([bool, float, int, str, type(None)])
_REFERENCES = frozenset([weakref.ref, weakref.ProxyType, weakref.CallableProxyType])
_CONTAINERS = frozenset([dict, list, tuple])
#: What torch calls hooks that may change what a module computes, and their flags.
_HOOKS = {"forward_pre_hooks": ["with_kwargs"], "forward_hooks": ["with_kwargs", "always_called"]}
_NONE: dict[str, Any] = {}
#: What libraries remember of a parameter beside its values.
_OF_PARAMETERS = frozenset(["_is_buffer", "_is_hf_initialized", "_is_param", "persistent"])


def unwrap(model: Any) -> Any:
    """Return the module inside DataParallel, DistributedDataParallel and compile wrappers."""
    torch: Any = arrays.torch()
    parallel = (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)
    compiled = kind_named("torch._dynamo", "OptimizedModule")
    while True:
        if isinstance(model, parallel):
            model = model.module
        elif isinstance(model, compiled):
            model = model._orig_mod  # noqa: SLF001  torch gives no public name
        else:
            return model


@dataclasses.dataclass(frozen=True)
class _Kind:
    """A class of modules: what it is called, whose attributes do not count, its peculiarities."""

    document: dict[str, Json]
    apart: frozenset[str]
    has_slots: bool
    has_extra_state: bool


class Structure(Walk):
    """A walk through a module and everything it holds.

    Parameters
    ----------
    model : torch.nn.Module
        The module. It is only read.

    Attributes
    ----------
    modules : list
        ``[name, document]`` of every module, outer ones first; a module that was met under
        another name has the document ``{"same": name}``.
    tensors : dict[str, torch.Tensor]
        Parameters and buffers under all their names, and tensors met elsewhere under their path.
    found : Captures
        Values and functions by path, and what has no rule.

    Raises
    ------
    FingerprintError
        If it is sharded, holds something nested too deep, or a fingerprint or extra state has no
        rule.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(lambda package: package is not None and not is_library(package))
        torch: Any = arrays.torch()
        self.modules: list[list[Json]] = []
        self.tensors: dict[str, Any] = {}
        self._torch = torch
        self._named: dict[int, tuple[str, Any]] = {}
        self._waiting: list[tuple[str, Any, dict[str, Json]]] = []
        self._sorts: dict[type, str] = {}
        self._kinds: dict[type, _Kind] = {}
        self._owned = attributes_of_module()
        self._add(model, "")
        path = "global"
        try:
            hooks = self._hooks(vars(torch.nn.modules.module), "_global_", "torch.nn ")
            if hooks:
                self.modules.append(["torch.nn", {"hooks": hooks}])
            for path, module, document in self._waiting:  # which grows meanwhile
                self._describe(path, module, document)
        except RecursionError:
            msg = f"{path or 'the model'} holds something nested too deep to be described"
            raise FingerprintError(msg) from None

    def _add(self, module: Any, name: str) -> str:
        """Give names to a module, its tensors, and all within it; return that of the module."""
        first = name
        waiting = [(name, module)]
        while waiting:
            name, module = waiting.pop()
            sort = self._sort(module)
            if sort == "wrapper":
                waiting.append((name, unwrap(module)))
                continue
            document: dict[str, Json] = {}
            self.modules.append([name, document])
            if id(module) in self._named:
                document["same"] = self._named[id(module)][0]
                continue
            self._named[id(module)] = (name, module)
            self._waiting.append((name, module, document))
            if sort in ("said", "script"):
                continue
            held = vars(module)
            for kind in ("_parameters", "_buffers", "_modules"):
                members = held.get(kind)
                if members:
                    document[kind[1:]] = list(members)
            prefix = f"{name}." if name else ""
            for kind in ("_parameters", "_buffers"):
                for key, tensor in held.get(kind, _NONE).items():
                    if tensor is not None:
                        self._add_tensor(tensor, prefix + key)
            children = held.get("_modules", _NONE).items()
            inner = [(prefix + key, child) for key, child in children if child is not None]
            waiting += reversed(inner)
        return first

    def _sort(self, module: Any) -> str:
        """Tell which of the kinds of modules `module` is that are described in a way of their own."""
        kind = type(module)
        if kind not in self._sorts:
            if unwrap(module) is not module:
                found = "wrapper"
            elif _says(module) is not UNSAID:
                found = "said"
            elif isinstance(module, self._torch.jit.ScriptModule):
                found = "script"
            elif isinstance(module, kind_named("torch.fx", "GraphModule")):
                found = "graph"
            elif isinstance(module, kind_named("torch.distributed.fsdp", "FullyShardedDataParallel")):
                found = "sharded"
            else:
                found = "plain"
            self._sorts[kind] = found
        return self._sorts[kind]

    def _add_tensor(self, tensor: Any, name: str) -> str:
        """Give a name to a tensor; return the first it had."""
        while name in self.tensors:  # an attribute of the name of a parameter
            name += "'"
        self.tensors[name] = tensor
        if vars(tensor):
            for key, value in vars(tensor).items():
                if key not in _OF_PARAMETERS:
                    self.found.not_keyed[f"{name}.{key}"] = type_name(type(value))
        return self._named.setdefault(id(tensor), (name, tensor))[0]

    def _describe(self, name: str, module: Any, document: dict[str, Json]) -> None:
        sort = self._sort(module)
        if sort == "sharded":
            msg = (
                f"{name or 'the model'} is sharded, and this process has a part of it: pass "
                "model=<digest> or model=castore.file(path)"
            )
            raise FingerprintError(msg)
        if sort == "said":
            said = encode(_says(module), f"the fingerprint of {name or 'the model'}")
            document["fingerprint"] = [self.name_of(type(module)), said]
            return
        document["training"] = getattr(module, "training", None)
        if sort == "script":
            document["class"] = "torch.jit.ScriptModule"
            for path, value in script_module(module).items():
                self.value(value, _join(name, path))
            return
        kind = self._kind(type(module), name)
        document.update(kind.document)
        attributes = self._attributes(name, module, kind)
        if attributes:
            document["attributes"] = attributes
        hooks = self._hooks(vars(module), "_", f"{name}." if name else "")
        if hooks:
            document["hooks"] = hooks
        if kind.has_extra_state:
            document["extra_state"] = _extra_state(name, module)
        if sort == "graph":
            self._graph(module.graph, module.code, _join(name, "forward"))

    def _attributes(self, name: str, module: Any, kind: _Kind) -> dict[str, Json]:
        """Return the plain attributes of a module; go through the others."""
        found: dict[str, Json] = {}
        encode_plain = self._encoder.encode
        held = attributes(module) if kind.has_slots else vars(module)
        for key, value in held.items():
            if key in kind.apart:
                continue
            if type(value) in _PLAIN or (
                type(value) is tuple and _PLAIN.issuperset(map(type, value))
            ):
                found[key] = encode_plain(value, key)
            elif not (key == "forward" and _is_of_class(value, module)):
                self.value(value, _join(name, key))
        return found

    def _hooks(self, held: Mapping[str, Any], prefix: str, path: str) -> Json:
        """Return the flags of hooks in their order; go through what they do."""
        found: dict[str, Json] = {}
        for kind, flags in _HOOKS.items():
            hooks = held.get(f"{prefix}{kind}")
            if not hooks:
                continue
            flagged = [held.get(f"{prefix}{kind}_{flag}", ()) for flag in flags]
            found[kind] = [[key in keys for keys in flagged] for key in hooks]
            for index, hook in enumerate(hooks.values()):
                self.value(hook, f"{path}{kind}[{index}]")
        return found

    def _kind(self, kind: type, name: str) -> _Kind:
        """Describe a class where it is first met."""
        if kind not in self._kinds:
            path = _join(name, "__class__")
            names = []
            for base in kind.__mro__:
                names.append(self.name_of(base))
                if self._is_own(base) or name_in_library(base):
                    break
            document: dict[str, Json] = {"class": names[0] if len(names) == 1 else names}
            if any(self._is_own(base) for base in kind.__mro__):
                document["code"] = path
                self.kind(kind, path, APART_FROM_RUNNING)
            owner = next(base for base in kind.__mro__ if "forward" in vars(base))
            if not self._is_own(owner) and self._is_own(vars(owner)["forward"]):  # put there
                self.value(vars(owner)["forward"], f"{path}.forward")
            module = self._torch.nn.Module
            self._kinds[kind] = _Kind(
                document,
                self._owned | incidental(kind),
                any("__slots__" in vars(base) for base in kind.__mro__),
                kind.get_extra_state is not module.get_extra_state,  # type: ignore[attr-defined]
            )
            self.found.libraries.add(kind.__module__)
        return self._kinds[kind]

    def value(self, value: Any, path: str) -> None:
        """Go through `value`, held at `path`; what cannot be gone through is not keyed."""
        try:
            self._value(value, path)
        except RecursionError:
            raise
        except Exception:  # whatever an object of the user's raises when it is looked at
            self.found.not_keyed[path] = type_name(type(value))

    def _value(self, value: Any, path: str) -> None:
        values, torch = self.found.values, self._torch
        if type(value) in _REFERENCES:
            self.found.not_keyed[path] = type_name(type(value))
        elif arrays.is_tensor(value):
            first = self._named.get(id(value))
            values[path] = {"tensor": first[0] if first else self._add_tensor(value, path)}
        elif is_module(value):
            value = unwrap(value)
            first = self._named.get(id(value))
            values[path] = {"module": first[0] if first else self._add(value, path)}
        elif isinstance(value, kind_named("torch.fx", "Graph")):
            self._graph(value, value.python_code("self").src, path)
        elif isinstance(value, torch.jit.ScriptFunction):
            for key, item in script_function(value).items():
                self.value(item, f"{path}.{key}")
        elif isinstance(value, torch.ScriptObject):
            values[path] = {"script object": spelled(value._type().qualified_name())}  # noqa: SLF001
            self.value(value.__getstate__(), f"{path}.state")
        elif isinstance(value, types.FunctionType) and "_torchdynamo_orig_callable" in vars(value):
            self.value(vars(value)["_torchdynamo_orig_callable"], path)
        elif _is_more_than_fields(value) or _holds_tensors(value):
            self._container(value, path)
        else:
            super().value(value, path)

    def _graph(self, graph: Any, code: str, path: str) -> None:
        """Go through a graph of torch.fx: its code, and the user's functions it calls."""
        self.found.values[path] = {"graph": spelled(code)}
        for node in graph.nodes:
            if node.op == "call_function" and not is_library(package_of(node.target)):
                self.value(node.target, f"{path}.{node.name}")

    def _object(self, value: Any, path: str) -> None:
        """Go through the attributes of an object, beside those that say where it came from."""
        apart = incidental(type(value))
        if not apart:
            super()._object(value, path)
            return
        for name, item in attributes(value).items():
            if name not in apart and not is_special(name):
                self.value(item, f"{path}.{name}")


def _join(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _says(module: Any) -> Any:
    return said_by(module, f"the fingerprint of {type_name(type(module))}")


def _extra_state(name: str, module: Any) -> Json:
    what = f"the extra state of {name or 'the model'}"
    try:
        return encode(module.get_extra_state(), what)
    except FingerprintError:
        raise
    except Exception as error:
        msg = f"{what} cannot be had: {type(error).__name__}: {error}"
        raise FingerprintError(msg) from error


def _is_of_class(value: Any, module: Any) -> bool:
    """Tell whether `value` is what the class of `module` defines anyway, bound or compiled."""
    value = getattr(value, "_torchdynamo_orig_callable", value)
    forward = getattr(value, "__func__", None)
    return forward is type(module).forward and value.__self__ is module


def _is_more_than_fields(value: Any) -> bool:
    """Tell whether a dataclass's object has other attributes, or some that do not count."""
    if isinstance(value, type) or not dataclasses.is_dataclass(value):
        return False
    fields = {field.name for field in dataclasses.fields(value)}
    return bool(incidental(type(value)) or getattr(value, "__dict__", {}).keys() - fields)


def _holds_tensors(value: Any) -> bool:
    if type(value) not in _CONTAINERS:
        return False
    return any(map(arrays.is_tensor, value.values() if isinstance(value, dict) else value))
