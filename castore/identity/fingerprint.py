"""The digest of anything castore can identify."""

from __future__ import annotations

from typing import Any

from castore.canonical import identify
from castore.errors import CastoreError, FingerprintError
from castore.identity import loader  # noqa: F401  from here on loaders and datasets are known
from castore.identity.describe import describe, document_of, refuse_unknown
from castore.identity.members import is_module
from castore.identity.models.snapshot import hash_model
from castore.identity.protocols import as_whole
from castore.identity.values import type_name

__all__ = ["fingerprint", "hash_model"]


def fingerprint(obj: Any) -> str:
    """Return the digest by which keys know `obj`, 32 hex digits.

    Parameters
    ----------
    obj : Any
        A model, a dataset or loader (by its rows in order), a value, a file, or a function,
        class or object of the user's (by its code and what it holds).

    Returns
    -------
    str
        Equal for equal things in every process, on every machine.

    Raises
    ------
    FingerprintError
        If it holds what castore has no rule for, or is what no key contains: a device, a lock,
        a Python module.
    """
    try:
        module, whole = is_module(obj), as_whole(obj)
    except CastoreError:
        raise
    except Exception as error:  # an object that raises when it is asked what it is
        msg = f"it cannot be looked at ({type(error).__name__}: {error})"
        raise FingerprintError(msg) from error
    if module:
        return hash_model(obj)
    if whole is not None:
        return identify("whole", whole)
    found = describe({"value": obj})
    refuse_unknown(found)
    document = document_of(found)
    if not document:
        msg = f"a {type_name(type(obj))} is part of no key, so it has no fingerprint"
        raise FingerprintError(msg)
    return identify("object", document)
