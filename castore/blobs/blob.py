"""Putting, opening and condemning blobs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from castore.backend.base import Backend, Upload
from castore.blobs import layout, parts
from castore.canonical import unseal
from castore.digest import hexdigest
from castore.errors import DamagedError

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "BlobRef",
    "Bytes",
    "Payload",
    "Streamed",
    "condemned",
    "damaged",
    "distrust",
    "is_intact",
    "map_blob",
    "put",
    "read",
]


@dataclass(frozen=True, slots=True)
class BlobRef:
    """A blob as a manifest names it.

    Attributes
    ----------
    digest : str
        Digest of its bytes, lowercase hex.
    generation : int
        0, or one more than that of the last name that was condemned.
    length : int
        Length in bytes.
    parts : str
        Checks of its parts (`castore.blobs.parts`); empty where it has one part, or too many.
    """

    digest: str
    generation: int
    length: int
    parts: str = field(default="", compare=False)

    @property
    def name(self) -> str:
        """Name of the object that holds it."""
        return layout.blob(self.digest, self.generation)


class Payload(Protocol):
    """Bytes to be stored, kept at hand until their commit is acknowledged."""

    digest: str
    length: int

    @property
    def parts(self) -> str:
        """Return the checks of its parts."""

    def store(self, backend: Backend, name: str) -> None:
        """Put the bytes as `name`; may be called again with another name."""

    def to_bytes(self) -> bytes:
        """Return the bytes."""


class Bytes:
    """A payload in memory."""

    def __init__(self, pieces: Sequence[Buffer], algorithm: str) -> None:
        self.pieces = pieces
        self.digest = hexdigest(pieces, algorithm)
        self.length = sum(memoryview(piece).nbytes for piece in pieces)

    @cached_property
    def parts(self) -> str:
        """Return the checks of its parts."""
        return parts.of(self.pieces) if self.length > parts.PART_NBYTES else ""

    def store(self, backend: Backend, name: str) -> None:
        """Put the bytes as `name`."""
        backend.put(name, self.pieces)

    def to_bytes(self) -> bytes:
        """Return the bytes."""
        return b"".join(self.pieces)


class Streamed:
    """A payload that was written before its digest was known."""

    def __init__(self, upload: Upload, digest: str, length: int, parts: str = "") -> None:
        self.digest = digest
        self.length = length
        self.parts = parts
        self._upload = upload
        self._named = False

    def store(self, backend: Backend, name: str) -> None:
        """Name the upload, or copy it when it has a name already."""
        if self._named:
            backend.put(name, [self._upload.contents(self.length)])
        else:
            self._upload.finish(name)
            self._named = True

    def to_bytes(self) -> bytes:
        """Return the bytes."""
        return self._upload.contents(self.length).tobytes()


#: To look whether so many bytes are there takes as long as to send them again.
_WORTH_A_LOOK = 8 << 20

# Changed by single operations only, so a fork can never find it locked.
_distrusted: set[tuple[str, str]] = set()


def distrust(backend: Backend, ref: BlobRef) -> None:
    """Remember for the life of the process that `ref` was seen damaged or missing.

    A reader deletes nothing: the fault may be its own. The next commit puts the blob again.
    """
    _distrusted.add((backend.url, ref.name))


def put(backend: Backend, payload: Payload, generation: int = 0) -> tuple[BlobRef, int]:
    """Store `payload` unless it is there; return its name and how many bytes were written.

    The checks of its parts are not asked for: they can wait until the bytes are on their way.
    """
    ref = BlobRef(payload.digest, generation, payload.length)
    identity = (backend.url, ref.name)
    if identity not in _distrusted and (backend.near or ref.length > _WORTH_A_LOOK):
        seen = backend.stat(ref.name)
        if seen is not None and seen.size == ref.length:
            backend.settle(ref.name)
            return ref, 0
    payload.store(backend, ref.name)
    _distrusted.discard(identity)
    return ref, ref.length


def map_blob(backend: Backend, ref: BlobRef, *, copy: bool = False) -> NDArray[np.uint8]:
    """Return the bytes of `ref` as a private, writable array (length,), not yet checked.

    Raises
    ------
    DamagedError
        If it is missing or has another length.
    """
    data = backend.open_private(ref.name, ref.length, copy=copy)
    if data is None:
        distrust(backend, ref)
        msg = f"{backend.url}: blob {ref.name} is missing or is not {ref.length:,} bytes long"
        raise DamagedError(msg)
    return data


def read(backend: Backend, ref: BlobRef, algorithm: str) -> bytes:
    """Return the bytes of `ref`, checked.

    Raises
    ------
    DamagedError
        If they are missing, or not what was stored.
    """
    data = map_blob(backend, ref, copy=True)
    if not is_intact(data, ref, algorithm):
        raise damaged(backend, ref)
    return data.tobytes()


def damaged(backend: Backend, ref: BlobRef) -> DamagedError:
    """Remember that the bytes of `ref` were seen changed; return what to raise."""
    distrust(backend, ref)
    return DamagedError(f"{backend.url}: blob {ref.name} is damaged (its bytes changed)")


def is_intact(data: NDArray[np.uint8], ref: BlobRef, algorithm: str) -> bool:
    """Tell whether `data`, the bytes found under a blob's name, are the blob's."""
    if ref.parts:
        return len(data) == ref.length and parts.are_intact(data, ref.parts)
    return hexdigest([data], algorithm) == ref.digest


def condemned(backend: Backend, refs: Iterable[BlobRef]) -> set[str]:
    """Return the names among `refs` that a tombstone forbids.

    A tombstone that cannot be read condemns every name under its prefix.
    """
    names = {ref.name: ref for ref in refs}
    forbidden: set[str] = set()
    for folder in sorted({layout.tombstones(ref.digest) for ref in names.values()}):
        under = {name for name, ref in names.items() if layout.tombstones(ref.digest) == folder}
        for info in backend.list(folder):
            listed = _condemned_by(backend, info.name)
            forbidden |= under if listed is None else under & listed
    return forbidden


def _condemned_by(backend: Backend, tombstone: str) -> set[str] | None:
    """Return the names a tombstone lists, or None if it cannot be read."""
    data = backend.get(tombstone)
    if data is None:
        return set()
    try:
        document = unseal(data, tombstone)
    except DamagedError:
        return None
    names = document.get("condemned")
    if document.get("format") != 1 or not isinstance(names, list):
        return None
    if not all(isinstance(name, str) for name in names):
        return None
    return {f"blobs/{name[:2]}/{name}" for name in names}
