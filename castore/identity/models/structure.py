"""What a torch module is beside the values of its tensors.

Of every submodule, in their order: its name, class, training flag, hooks, and every attribute
that torch.nn.Module does not own.
Classes of libraries go by name, the user's by what they define, objects by class and attributes,
functions by code; what torch wrote (graphs, scripts) by its code. A module or tensor that is
met in an attribute goes by its name.
"""

from __future__ import annotations

import dataclasses
import marshal
import types
from collections.abc import Mapping
from typing import Any

from castore import arrays
from castore.canonical import Json, dumps
from castore.errors import FingerprintError
from castore.identity.incidental import APART_FROM_RUNNING, computed, incidental
from castore.identity.libraries import is_library, name_in_library, package_of, top
from castore.identity.members import attributes, attributes_of_module, is_module, uncompiled
from castore.identity.models.graphs import kind_named, script_function, script_module, spelled
from castore.identity.models.tree import REFERENCES, Member, Tree, join, said
from castore.identity.values import encode, type_name
from castore.identity.walk import Walk

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
        Tensors by name, and modules: ``[name, number of its document]`` of each.
    documents : list of dict
        What the modules are, each document once.
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
        self.documents: list[dict[str, Json]] = []
        self._numbers: dict[Any, int] = {}
        self._owned = attributes_of_module()
        self._kinds: dict[type, _Kind] = {}
        self._torch = torch
        self.tree.module(model, "")
        hooks = self._hooks(vars(torch.nn.modules.module), "_global_", "torch.nn ")
        if hooks:
            self.tree.modules.append(["torch.nn", self._number({"hooks": hooks})])
        for member in self.tree.members:  # which grows meanwhile
            member.entry[1] = self._describe(member)
        self.found.not_keyed.update(self.tree.not_keyed)

    def _describe(self, member: Member) -> int:
        """Return the number of the document of a module."""
        name, module = member.name, member.module
        what = name or "the model"
        if member.sort == "sharded":
            msg = (
                f"{what} is sharded, and this process has a part of it: pass model=<digest> or "
                "model=castore.file(path)"
            )
            raise FingerprintError(msg)
        if member.sort == "said":
            says = encode(said(module), f"the fingerprint of {what}")
            return self._number({"fingerprint": [self.name_of(type(module)), says]})
        if member.sort == "script":
            for path, value in script_module(module).items():
                self._hold(value, join(name, path))
            training = getattr(module, "training", None)  # a frozen script has none
            return self._number({"class": "torch.jit.ScriptModule", "training": training})
        kind = self._kinds.get(type(module)) or self._class(type(module), name)
        held = attributes(module) if kind.has_slots else vars(module)
        own = {key: value for key, value in held.items() if key not in kind.apart}
        if member.sort != "plain" or kind.has_extra_state or not _is_usual(held, own):
            return self._number(self._document(member, kind, held, own))
        # Most modules are as others of the model are, which this tells sooner than a document.
        signature = (type(module), member.none, held.get("training"), marshal.dumps(own, 2))
        if signature not in self._numbers:
            document = self._document(member, kind, held, own)
            self._numbers[signature] = self._number(document)
        return self._numbers[signature]

    def _number(self, document: dict[str, Json]) -> int:
        """Return the number of a document, a new one if there was none like it."""
        number = self._numbers.setdefault(dumps(document), len(self.documents))
        if number == len(self.documents):
            self.documents.append(document)
        return number

    def _document(
        self, member: Member, kind: _Kind, held: Mapping[str, Any], own: dict[str, Any]
    ) -> dict[str, Json]:
        """Describe a module that has `held`, of which `own` is not every module's."""
        name, module = member.name, member.module
        found = {**kind.document, "training": held.get("training")}
        if member.none:
            found["none"] = list(member.none)
        hooks = self._hooks(held, "_", join(name, ""))
        if hooks:
            found["hooks"] = hooks
            for key in computed(held["_forward_pre_hooks"].values()):
                own.pop(key, None)
        plain = self._attributes(own, name)
        if plain:
            found["attributes"] = plain
        if kind.has_extra_state:
            found["extra_state"] = _extra_state(module, f"the extra state of {name or 'the model'}")
        if "forward" in held and not _is_of_class(held["forward"], module):
            self._hold(held["forward"], join(name, "forward"))
        if member.sort == "graph":
            self._graph(module.graph, module.code, join(name, "forward"))
        return found

    def _attributes(self, own: Mapping[str, Any], name: str) -> dict[str, Json]:
        """Return plain attributes; go through the others."""
        found: dict[str, Json] = {}
        for key, value in own.items():
            if _is_plain(value):
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
        if not all(is_library(top(base.__module__)) for base in bases):
            document["code"] = path
            self.kind(kind, path, APART_FROM_RUNNING)
        owner = next((base for base in bases if "forward" in vars(base)), object)
        forward = vars(owner).get("forward")
        if self._is_own(forward) and name_in_library(owner):  # put there by the user
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
        elif _holds_tensors(value):
            self._container(value, path)
        else:
            super()._value(value, path)

    def _graph(self, graph: Any, code: str, path: str) -> None:
        """Go through a graph of torch.fx: its code, and the user's functions it calls."""
        self.found.values[path] = {"graph": spelled(code)}
        for node in graph.nodes:
            if node.op == "call_function" and not is_library(package_of(node.target)):
                self.value(node.target, f"{path}.{node.name}")


def _is_plain(value: Any) -> bool:
    kind = type(value)
    return kind in _PLAIN or (kind is tuple and _PLAIN.issuperset(map(type, value)))


def _is_usual(held: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    """Tell whether a module is told from others of its class by plain attributes alone."""
    if held.get("_forward_hooks") or held.get("_forward_pre_hooks") or "forward" in held:
        return False
    return _PLAIN.issuperset(map(type, own.values())) or all(map(_is_plain, own.values()))


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


def _holds_tensors(value: Any) -> bool:
    if type(value) not in _CONTAINERS:
        return False
    return any(map(arrays.is_tensor, value.values() if isinstance(value, dict) else value))
