"""The only hasher of bytes.

Identity (row ids, table ids, keys, model and content digests) is xxh3-128 in every store.
Blobs are named by the digest chosen when their store was made. Row checks are xxh3-64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol, cast

import xxhash

from castore.errors import ConfigError

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "ALGORITHMS",
    "Hasher",
    "check64",
    "digest128",
    "hasher",
    "hexdigest",
    "identity",
    "identity_hasher",
]

#: Digest algorithms for blobs, by the name that manifests record. Never change a name.
ALGORITHMS = ("xxh3-128", "sha256", "blake3")


class Hasher(Protocol):
    """What `hasher` gives: feed it bytes, then ask for the digest."""

    def update(self, data: Buffer, /) -> object: ...  # noqa: D102
    def digest(self) -> bytes: ...  # noqa: D102
    def hexdigest(self) -> str: ...  # noqa: D102


def hasher(algorithm: str = "xxh3-128") -> Hasher:
    """Return a fresh streaming hasher.

    Raises
    ------
    ConfigError
        If `algorithm` is unknown, or is ``blake3`` and the extra is not installed.
    """
    if algorithm == "xxh3-128":
        return xxhash.xxh3_128()
    if algorithm == "sha256":
        import hashlib

        return hashlib.sha256()
    if algorithm == "blake3":
        return _blake3()
    msg = f"unknown blob digest {algorithm!r}: choose one of {', '.join(ALGORITHMS)}"
    raise ConfigError(msg)


def _blake3() -> Hasher:
    try:
        import blake3
    except ImportError as error:
        msg = "this store names its blobs by blake3: pip install 'castore[blake3]'"
        raise ConfigError(msg) from error
    return cast(Hasher, blake3.blake3())


def hexdigest(pieces: Iterable[Buffer], algorithm: str = "xxh3-128") -> str:
    """Digest of `pieces` one after another, as lowercase hex."""
    if algorithm == "xxh3-128" and isinstance(pieces, list) and len(pieces) == 1:
        return xxhash.xxh3_128_hexdigest(pieces[0])  # one call: the hot path of a hit
    state = hasher(algorithm)
    for piece in pieces:
        state.update(piece)
    return state.hexdigest()


def identity_hasher(domain: str) -> Hasher:
    """Return an xxh3-128 hasher that has already taken in what the digest is of.

    `domain` keeps digests of different kinds of things apart even where their bytes agree.
    """
    state = xxhash.xxh3_128()
    state.update(f"castore/1/{domain}\n".encode())
    return state


def identity(domain: str, data: Buffer) -> str:
    """Digest that identifies `data` as a thing of kind `domain`: 32 lowercase hex digits."""
    state = identity_hasher(domain)
    state.update(data)
    return state.hexdigest()


#: xxh3-64 of a row group, as an integer.
check64: Callable[[Buffer], int] = xxhash.xxh3_64_intdigest
#: xxh3-128 of what is already one piece: half the price of a hasher.
digest128: Callable[[Buffer], bytes] = xxhash.xxh3_128_digest
