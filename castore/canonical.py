"""The only encoder of documents: derivations, manifests, everything castore writes as JSON.

A document is made of None, booleans, integers, strings, lists and string-keyed dicts. Its
canonical form is ASCII JSON with sorted keys and no spaces, so equal documents are equal
bytes and a stored derivation *is* the preimage of its digest. Python values that JSON
cannot tell apart are wrapped before they get here (`castore.identity.values`).

A sealed document ends with its own digest::

    {"format":1,"rows":12,"digest":"0f3a…"}
    └──────── body ──────┘└──── seal ────┘     digest = xxh3-128(body)
"""

from __future__ import annotations

import json
from typing import Any, TypeAlias

from castore.digest import hexdigest, identity
from castore.errors import DamagedError

__all__ = ["Json", "dumps", "identify", "seal", "unseal"]

Json: TypeAlias = Any

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)
_SEAL = b',"digest":"%s"}'
_SEAL_LENGTH = len(_SEAL % (b"0" * 32))


def dumps(document: Json) -> bytes:
    """Return the canonical form of `document`."""
    return _ENCODER.encode(document).encode("ascii")


def identify(domain: str, document: Json) -> str:
    """Digest that identifies `document` as a thing of kind `domain`."""
    return identity(domain, dumps(document))


def seal(document: dict[str, Json]) -> bytes:
    """Return the canonical form of a non-empty `document`, with its digest at the end."""
    body = dumps(document)[:-1]
    return body + _SEAL % hexdigest([body]).encode()


def unseal(data: bytes, name: str) -> dict[str, Json]:
    """Return the document in `data`, read from the object `name`.

    Raises
    ------
    DamagedError
        If the digest at the end is missing or wrong, or the rest is no JSON object.
    """
    body, end = data[:-_SEAL_LENGTH], data[-_SEAL_LENGTH:]
    if not body or end != _SEAL % hexdigest([body]).encode():
        msg = f"{name}: the document is damaged (its digest does not match)"
        raise DamagedError(msg)
    try:
        document: dict[str, Json] = json.loads(body + b"}")
    except (ValueError, RecursionError) as error:
        msg = f"{name}: the document is not JSON"
        raise DamagedError(msg) from error
    return document
