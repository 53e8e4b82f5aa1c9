"""The user's code and objects as documents: what turns an item into a sample.

Transforms, collate and loader functions go by code and captured values, as the function itself
does; objects of libraries that castore knows by their type's name and attributes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from castore.canonical import Json
from castore.errors import FingerprintError, RandomError
from castore.identity import decoders
from castore.identity.findings import Captures
from castore.identity.libraries import is_library
from castore.identity.models.snapshot import hash_model
from castore.identity.transforms import is_random
from castore.identity.values import type_name
from castore.identity.walk import Walk

__all__ = ["describe", "document_of", "is_users", "refuse_random", "refuse_unknown"]


def is_users(package: str | None) -> bool:
    """Tell whether a top-level package goes by its code: whether no library castore knows."""
    return package is not None and not is_library(package)


def describe(parts: Mapping[str, Any], *, kind: type | None = None) -> Captures:
    """Walk through `parts`, each under its name; modules among them go by their digests.

    Parameters
    ----------
    parts : mapping
        Attributes or arguments by name.
    kind : type, optional
        A class whose code counts too, less what makes and shows its objects.
    """
    walk = Walk(is_users)
    for name, value in parts.items():
        walk.start(value, name)
    if kind is not None:
        walk.kind(kind, "__class__", _APART_FROM_SAMPLES)
    found = walk.found
    for path, module in found.models.items():
        found.values[path] = {"model": hash_model(module)}
        drawing = {name: part for name, part in module.named_modules() if is_random(part)}
        found.random.update({f"{path}.{n}": type_name(type(m)) for n, m in drawing.items()})
    found.models.clear()
    return found


def document_of(found: Captures, used: tuple[str, ...] = ()) -> dict[str, Json]:
    """Return what was found as part of a source; what is empty is left out.

    Parameters
    ----------
    found : Captures
        What `describe` returned.
    used : tuple of str
        Libraries that decode the items although none of the parts names them.
    """
    document = {
        "captured": found.values,
        "decoders": _behaviours({*found.libraries, *used}),
        "functions": found.functions,
    }
    return {name: part for name, part in document.items() if part}


def _behaviours(modules: set[str]) -> dict[str, Json]:
    """Return how the decoders among `modules`, or used by them, behave."""
    names = [f"{module}." for module in modules]
    if any(name.startswith("torchvision.datasets.") for name in names):
        names.append("PIL.")  # what its loader functions read with
    found = {
        library: decoders.behaviour(library)
        for library in decoders.LIBRARIES
        if any(name.startswith(f"{library}.") for name in names)
    }
    return {library: digest for library, digest in found.items() if digest}


def refuse_unknown(found: Captures) -> None:
    """See that everything found has a rule.

    Raises
    ------
    FingerprintError
        Naming the first that has none.
    """
    for path, kind in found.not_keyed.items():
        msg = f"attribute {path!r} ({kind}) has no rule"
        raise FingerprintError(msg)


def refuse_random(found: Captures) -> None:
    """See that no transform found is known to be random.

    Raises
    ------
    RandomError
        Naming the first that is.
    """
    for path, kind in found.random.items():
        name = kind.rpartition(".")[2]
        msg = f"{path} holds {name}, which is random: a stored result would freeze one draw of it"
        raise RandomError(msg)


_APART_FROM_SAMPLES = frozenset(
    [
        "__castore_fingerprint__",
        "__castore_row_ids__",
        "__init__",
        "__len__",
        "__repr__",
        "__str__",
        "extra_repr",
    ]
)
