"""What a torch module computes, as a digest.

The digest covers the *state* (name, dtype, shape and raw bytes of every parameter and buffer)
and the *structure* (class, training flag, attributes, hooks and code of every submodule). The
device is out. ``torch.save`` bytes and parameter counts are never used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from castore.canonical import Json, identify
from castore.errors import FingerprintError
from castore.identity.members import is_module
from castore.identity.models.state import describe
from castore.identity.models.structure import Structure
from castore.identity.models.tree import join, unwrap
from castore.identity.values import type_name

__all__ = ["ModelState", "hash_model", "snapshot", "training_flags", "unwrap"]


@dataclass(frozen=True)
class ModelState:
    """A model as it was at one time.

    Attributes
    ----------
    digest : str
        The model hash, 32 hex digits: the digest of `derivation`.
    derivation : dict
        ``tensors``: ``[name, dtype, shape, digest]`` of each. ``modules``: ``[name, number]`` of
        each, outer ones first, the number being that of its place in ``documents``; one that was
        met before is ``[name, first name]``. Both are in the model's order. ``values`` and
        ``functions``: what attributes hold, by path.
    not_keyed : dict[str, str]
        Type names by path, of attributes that have no rule.
    libraries : frozenset[str]
        Modules of others that define the classes and functions met.
    """

    digest: str
    derivation: dict[str, Json]
    not_keyed: dict[str, str]
    libraries: frozenset[str]

    @property
    def tensors(self) -> dict[str, Json]:
        """``[dtype, shape, digest]`` of each tensor, by name."""
        return {name: described for name, *described in self.derivation["tensors"]}

    def differences(self, other: ModelState) -> list[str]:
        """Return the names of tensors, flags and attributes that differ, sorted."""
        here, there = self._parts(), other._parts()
        differing = (part for part in here | there if here.get(part) != there.get(part))
        return sorted({name for _, name in differing})

    def _parts(self) -> dict[tuple[str, str], Json]:
        """Return what the digest is of, by section and name."""
        found = {("tensors", name): described for name, described in self.tensors.items()}
        for section in ("functions", "values"):
            for path, value in self.derivation[section].items():
                found[section, path] = value
        documents = self.derivation["documents"]
        for name, number in self.derivation["modules"]:
            document = documents[number] if isinstance(number, int) else {"same": number}
            for key, value in document.items():
                if key != "attributes":
                    found["modules", join(name, key)] = value
            for key, value in document.get("attributes", {}).items():
                found["attributes", join(name, key)] = value
        return found


def hash_model(model: Any) -> str:
    """Return the digest of a torch module, 32 hex digits.

    Equal on any device, wrapped for parallel or compiled execution or not. Different when any
    parameter, buffer, submodule class, training flag, attribute or hook differs.

    Parameters
    ----------
    model : torch.nn.Module
        The module. It is only read.

    Raises
    ------
    FingerprintError
        If it is no module, or its parameters have no values here (meta device, lazy, sharded).
    """
    return snapshot(model).digest


def snapshot(model: Any) -> ModelState:
    """Describe a torch module as it is now.

    Raises
    ------
    FingerprintError
        As `hash_model`.
    """
    if not is_module(model):
        msg = f"{type_name(type(model))} is no torch module: pass a module, or model=<its digest>"
        raise FingerprintError(msg)
    found = Structure(model)
    tensors = [[name, *described] for name, described in describe(found.tree.tensors).items()]
    derivation = {
        "documents": found.documents,
        "functions": found.found.functions,
        "modules": found.tree.modules,
        "tensors": tensors,
        "values": found.found.values,
    }
    libraries = frozenset(found.found.libraries)
    return ModelState(identify("model", derivation), derivation, found.found.not_keyed, libraries)


def training_flags(model: Any) -> list[tuple[Any, bool]]:
    """Return every submodule with its training flag, to put back later."""
    return [(module, module.training) for module in model.modules()]
