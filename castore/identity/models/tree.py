"""The modules and tensors of a model by name, wherever they are held.

The tree is that of submodules. A module or tensor that is held elsewhere (in a list, a closure)
joins it under the path where it is met; so does all within it.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from castore import arrays
from castore.identity.models.graphs import kind_named
from castore.identity.protocols import UNSAID, said_by
from castore.identity.values import type_name

__all__ = ["REFERENCES", "Member", "Tree", "join", "said", "unwrap"]

#: What may be gone tomorrow, and is copied without what it refers to.
REFERENCES = frozenset([weakref.ref, weakref.ProxyType, weakref.CallableProxyType])
_NOTHING: dict[str, Any] = {}
#: What torch and transformers remember of a tensor beside its values.
_OF_TENSORS = frozenset(
    [
        "_dynamo_static_input_type",
        "_is_buffer",
        "_is_hf_initialized",
        "_is_param",
        "persistent",
    ]
)


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


def said(module: Any) -> Any:
    """Return what a module says identifies it, or UNSAID."""
    return said_by(module, f"the fingerprint of {type_name(type(module))}")


def join(name: str, key: str) -> str:
    """Return the name of what a module called `name` holds under `key`."""
    return f"{name}.{key}" if name else key


class Member(NamedTuple):
    """A module in the tree.

    Attributes
    ----------
    name : str
        Its first name; empty for the model itself.
    module : torch.nn.Module
        The module, unwrapped.
    sort : str
        How it is described: ``"plain"``, ``"graph"``, ``"script"``, ``"said"``, ``"sharded"``.
    none : tuple of str
        Its parameters, buffers and submodules that are None.
    entry : list
        Its place among the modules of the tree.
    """

    name: str
    module: Any
    sort: str
    none: tuple[str, ...]
    entry: list[Any]


@dataclass
class Tree:
    """Modules and tensors by name.

    Attributes
    ----------
    modules : list
        ``[name, None]``, outer ones first; None is for who describes them. What was met under
        another name is ``[name, first name]``.
    members : list of Member
        Each module once.
    tensors : dict[str, torch.Tensor]
        Parameters and buffers under all their names, in order; tensors held elsewhere.
    not_keyed : dict[str, str]
        Type names of attributes of parameters, by path.
    """

    modules: list[list[Any]] = field(default_factory=list)
    members: list[Member] = field(default_factory=list)
    tensors: dict[str, Any] = field(default_factory=dict)
    not_keyed: dict[str, str] = field(default_factory=dict)
    _named: dict[int, tuple[str, Any]] = field(default_factory=dict)
    _sorts: dict[type, str] = field(default_factory=dict)

    def tensor(self, tensor: Any, path: str) -> str:
        """Return the first name of a tensor, `path` if it has none."""
        known = self._named.get(id(tensor))
        return known[0] if known else self._add_tensor(tensor, path)

    def module(self, module: Any, path: str) -> str:
        """Return the first name of a module, `path` if it has none."""
        module = unwrap(module)
        known = self._named.get(id(module))
        if known:
            return known[0]
        waiting = [(path, module)]
        while waiting:
            waiting += reversed(self._add_module(*waiting.pop()))
        return path

    def _add_module(self, name: str, module: Any) -> list[tuple[str, Any]]:
        """Give names to a module and its tensors; return the modules it holds, to be named."""
        kind = type(module)
        sort = self._sorts.get(kind) or self._sorts.setdefault(kind, _sort(module))
        if sort == "wrapper":
            return [(name, unwrap(module))]
        known = self._named.get(id(module))
        if known:
            self.modules.append([name, known[0]])
            return []
        entry = [name, None]
        self._named[id(module)] = (name, module)
        self.modules.append(entry)
        if sort in ("said", "script"):
            self.members.append(Member(name, module, sort, (), entry))
            return []
        none: tuple[str, ...] = ()
        held = vars(module)
        prefix = f"{name}." if name else ""
        for members in ("_parameters", "_buffers"):
            for key, tensor in held.get(members, _NOTHING).items():
                if tensor is not None:
                    self._add_tensor(tensor, prefix + key)
                else:
                    none += (key,)
        found = []
        for key, child in held.get("_modules", _NOTHING).items():
            if child is None:
                none += (key,)
            elif type(child) in REFERENCES:
                self.not_keyed[prefix + key] = type_name(type(child))
            else:
                found.append((prefix + key, child))
        self.members.append(Member(name, module, sort, none, entry))
        return found

    def _add_tensor(self, tensor: Any, name: str) -> str:
        while name in self.tensors:  # an attribute that has the name of a parameter
            name += "'"
        self.tensors[name] = tensor
        if tensor.__dict__:
            for key, value in tensor.__dict__.items():
                if key not in _OF_TENSORS:
                    self.not_keyed[f"{name}.{key}"] = type_name(type(value))
        return self._named.setdefault(id(tensor), (name, tensor))[0]


def _sort(module: Any) -> str:
    """Tell how modules of the type of `module` are described."""
    torch: Any = arrays.torch()
    if unwrap(module) is not module:
        return "wrapper"
    if said(module) is not UNSAID:
        return "said"
    if isinstance(module, torch.jit.ScriptModule):
        return "script"
    if isinstance(module, kind_named("torch.fx", "GraphModule")):
        return "graph"
    if isinstance(module, kind_named("torch.distributed.fsdp", "FullyShardedDataParallel")):
        return "sharded"
    return "plain"
