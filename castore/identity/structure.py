"""What a torch module is beside the values of its tensors.

Of every submodule, in their order: its name, class, training flag, hooks, and every attribute
that torch.nn.Module does not own.
Classes of libraries go by name, the user's by what they define, objects by class and attributes,
functions by code; what torch wrote (graphs, scripts) by its code. A module or tensor that is
met in an attribute goes by its name.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import Any

from castore import arrays
from castore.canonical import Json
from castore.errors import FingerprintError
from castore.identity.captures import Walk, is_module
from castore.identity.graphs import kind_named, script_function, script_module, spelled, uncompiled
from castore.identity.incidental import APART_FROM_RUNNING, computed, incidental
from castore.identity.libraries import is_library, name_in_library, package_of
from castore.identity.members import attributes, attributes_of_module, is_special
from castore.identity.tree import REFERENCES, Member, Tree, join, said
from castore.identity.values import encode, type_name

__all__ = ["Structure"]

_PLAIN = frozenset([bool, float, int, str, type(None)])
_CONTAINERS = frozenset([dict, list, tuple])
#: What torch calls hooks that may change what a module computes, and their flags.
_HOOKS = {"forward_pre_hooks": ["with_kwargs"], "forward_hooks": ["with_kwargs", "always_called"]}


@dataclasses.dataclass(frozen=True)
class _Kind:
    """A class of modules: what it is called, and which attributes of its objects do not count."""

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
    tree : Tree
        Modules with their documents, and tensors, by name.
    found : Captures
        Values and functions by path, and what has no rule.

    Raises
    ------
    FingerprintError
        If a part of it is sharded, it holds something nested too deep, or what it says of itself
        or its extra state has no rule.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(lambda package: package is not None and not is_library(package))
        torch: Any = arrays.torch()
        self.tree = Tree()
        self._owned = attributes_of_module()
        self._kinds: dict[type, _Kind] = {}
        self._torch = torch
        self.tree.module(model, "")
        hooks = self._hooks(vars(torch.nn.modules.module), "_global_", "torch.nn ")
        if hooks:
            self.tree.modules.append(["torch.nn", {"hooks": hooks}])
        for member in self.tree.members:  # which grows meanwhile
            self._describe(member)
        self.found.not_keyed.update(self.tree.not_keyed)

    def _describe(self, member: Member) -> None:
        name, module, document = member.name, member.module, member.document
        what = name or "the model"
        if member.sort == "sharded":
            msg = (
                f"{what} is sharded, and this process has a part of it: pass model=<digest> or "
                "model=castore.file(path)"
            )
            raise FingerprintError(msg)
        if member.sort == "said":
            says = encode(said(module), f"the fingerprint of {what}")
            document["fingerprint"] = [self.name_of(type(module)), says]
            return
        document["training"] = getattr(module, "training", None)
        if member.sort == "script":
            document["class"] = "torch.jit.ScriptModule"
            for path, value in script_module(module).items():
                self._hold(value, join(name, path))
            return
        kind = self._kinds.get(type(module)) or self._class(type(module), name)
        document.update(kind.document)
        held = attributes(module) if kind.has_slots else vars(module)
        apart = kind.apart
        if held.get("_forward_hooks") or held.get("_forward_pre_hooks"):
            document["hooks"] = self._hooks(held, "_", join(name, ""))
            apart |= computed(held["_forward_pre_hooks"].values())
        plain = self._attributes(held, name, apart)
        if plain:
            document["attributes"] = plain
        if kind.has_extra_state:
            document["extra_state"] = _extra_state(module, f"the extra state of {what}")
        if "forward" in held and not _is_of_class(held["forward"], module):
            self._hold(held["forward"], join(name, "forward"))
        if member.sort == "graph":
            self._graph(module.graph, module.code, join(name, "forward"))

    def _attributes(
        self, held: Mapping[str, Any], name: str, apart: frozenset[str]
    ) -> dict[str, Json]:
        """Return plain attributes; go through the others."""
        found: dict[str, Json] = {}
        for key, value in held.items():
            if key in apart:
                continue
            kind = type(value)
            if value is None or kind is bool:
                found[key] = value
            elif kind in _PLAIN or (kind is tuple and _PLAIN.issuperset(map(type, value))):
                found[key] = self._encoder.encode(value, key)
            else:
                self._hold(value, join(name, key))
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
                self._hold(hook, f"{path}{kind}[{index}]")
        return found

    def _class(self, kind: type, name: str) -> _Kind:
        """Describe a class where it is first met."""
        path = join(name, "__class__")
        bases = kind.__mro__
        names = []
        for base in bases:  # a class that torch made goes by its base's name too
            names.append(self.name_of(base))
            if self._is_own(base) or name_in_library(base):
                break
        document: dict[str, Json] = {"class": names[0] if len(names) == 1 else names}
        if any(map(self._is_own, bases)):
            document["code"] = path
            self.kind(kind, path, APART_FROM_RUNNING)
        owner = next((base for base in bases if "forward" in vars(base)), object)
        forward = vars(owner).get("forward")
        if name_in_library(owner) and self._is_own(forward):  # put there by the user
            self.value(forward, f"{path}.forward")
        self.found.libraries.add(kind.__module__)
        self._kinds[kind] = _Kind(
            document,
            self._owned | incidental(kind) | {"forward"},
            any("__slots__" in vars(base) for base in bases),
            getattr(kind, "get_extra_state", None) is not self._torch.nn.Module.get_extra_state,
        )
        return self._kinds[kind]

    def _hold(self, value: Any, path: str) -> None:
        """Go through `value`, which a module holds at `path`."""
        try:
            self.value(value, path)
        except RecursionError:
            msg = f"{path} holds something nested too deep to be described"
            raise FingerprintError(msg) from None

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
        if type(value) in REFERENCES:
            self.found.not_keyed[path] = type_name(type(value))
        elif arrays.is_tensor(value):
            values[path] = {"tensor": self.tree.tensor(value, path)}
        elif is_module(value):
            values[path] = {"module": self.tree.module(value, path)}
        elif isinstance(value, kind_named("torch.fx", "Graph")):
            self._graph(value, value.python_code("self").src, path)
        elif isinstance(value, torch.jit.ScriptFunction):
            for key, item in script_function(value).items():
                self.value(item, f"{path}.{key}")
        elif isinstance(value, torch.ScriptObject):
            values[path] = {"script object": spelled(value._type().qualified_name())}  # noqa: SLF001
            self.value(value.__getstate__(), f"{path}.state")
        elif uncompiled(value) is not value:
            self.value(uncompiled(value), path)
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

    def _function(self, fn: types.FunctionType, path: str) -> None:
        super()._function(uncompiled(fn), path)

    def _object(self, value: Any, path: str) -> None:
        """Go through the attributes of an object, beside those that say where it came from."""
        apart = incidental(type(value))
        if not apart:
            super()._object(value, path)
            return
        for name, item in attributes(value).items():
            if name not in apart and not is_special(name):
                self.value(item, f"{path}.{name}")


def _extra_state(module: Any, what: str) -> Json:
    try:
        state = module.get_extra_state()
    except Exception as error:
        msg = f"{what} cannot be had: {type(error).__name__}: {error}"
        raise FingerprintError(msg) from error
    return encode(state, what)


def _is_of_class(value: Any, module: Any) -> bool:
    """Tell whether `value` is what the class of `module` defines anyway, bound or compiled."""
    value = uncompiled(value)
    return (
        isinstance(value, types.MethodType)
        and value.__self__ is module
        and value.__func__ is getattr(type(module), "forward", None)
    )


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
