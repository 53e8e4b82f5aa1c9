"""The Zarr keys of an entry, and what each holds: in its manifest, or in a blob of their own."""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from castore.blobs.blob import BlobRef
from castore.canonical import Json, dumps
from castore.errors import DamagedError

__all__ = ["Chunk", "KeyMap", "count", "of_kind"]

_DIGEST = re.compile(r"[0-9a-f]{32}|[0-9a-f]{64}")

_T = TypeVar("_T")

#: What a Zarr key holds: its bytes, or the blob that has them.
Chunk: TypeAlias = bytes | BlobRef


@dataclass(frozen=True)
class KeyMap:
    """The keys of a Zarr hierarchy.

    Attributes
    ----------
    metadata : dict
        Every ``zarr.json`` by Zarr key: the document, where its bytes are the canonical form,
        else its text as it was written.
    chunks : dict
        Every other Zarr key.
    absent : tuple of str
        Keys of chunks that were left out on purpose; one that ends in ``/`` stands for every
        chunk below it that is not there.
    """

    metadata: dict[str, Json] = field(default_factory=dict)
    chunks: dict[str, Chunk] = field(default_factory=dict, repr=False)
    absent: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return the number of keys that hold something."""
        return len(self.metadata) + len(self.chunks)

    @property
    def blobs(self) -> list[BlobRef]:
        """The blobs it names, each once."""
        return list(dict.fromkeys(c for c in self.chunks.values() if isinstance(c, BlobRef)))

    @property
    def nbytes(self) -> int:
        """Length of all values but metadata."""
        return sum(len(c) if isinstance(c, bytes) else c.length for c in self.chunks.values())

    def text(self, key: str) -> bytes:
        """Return the bytes of the ``zarr.json`` at `key`."""
        found = self.metadata[key]
        return found.encode() if isinstance(found, str) else dumps(found)

    def is_absent(self, key: str) -> bool:
        """Tell whether the chunk at `key` was left out on purpose."""
        return any(
            key == name or (name.endswith("/") and key.startswith(name)) for name in self.absent
        )

    def same_content(self, other: KeyMap) -> bool:
        """Tell whether `other` has the same keys with the same bytes, wherever they lie."""
        return (
            self.metadata == other.metadata
            and set(self.absent) == set(other.absent)
            and {name: _content(c) for name, c in self.chunks.items()}
            == {name: _content(c) for name, c in other.chunks.items()}
        )

    def document(self) -> dict[str, Json]:
        """Return it as three fields of a document."""
        return {
            "absent": list(self.absent),
            "chunks": {name: chunk_document(c) for name, c in self.chunks.items()},
            "metadata": self.metadata,
        }

    @classmethod
    def from_document(cls, document: dict[str, Json]) -> KeyMap:
        """Return what `document` has.

        Raises
        ------
        AttributeError, KeyError, TypeError, ValueError
            If it is not well formed.
        """
        return cls(
            metadata=dict(document["metadata"]),
            chunks={zarr: chunk_of(c) for zarr, c in document["chunks"].items()},
            absent=tuple(of_kind(name, str) for name in of_kind(document["absent"], list)),
        )

    def to_bytes(self) -> bytes:
        """Return it as the bytes of a blob."""
        return dumps(self.document())

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> KeyMap:
        """Return what the intact blob `name` has.

        Raises
        ------
        DamagedError
            If it is not well formed.
        """
        try:
            return cls.from_document(json.loads(data))
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            msg = f"{name}: the map of Zarr keys is not well formed ({error!r:.200})"
            raise DamagedError(msg) from error


def _content(chunk: Chunk) -> Json:
    return chunk if isinstance(chunk, bytes) else (chunk.digest, chunk.length)


def chunk_document(chunk: Chunk) -> Json:
    """Return `chunk` as a document."""
    if isinstance(chunk, bytes):
        return {"inline": base64.b64encode(chunk).decode()}
    document = {"digest": chunk.digest, "generation": chunk.generation, "length": chunk.length}
    return {**document, "parts": chunk.parts} if chunk.parts else document


def chunk_of(document: Json) -> Chunk:
    """Return the chunk in `document`.

    Raises
    ------
    AttributeError, KeyError, TypeError, ValueError
        If it is not well formed.
    """
    if "inline" in document:
        try:
            return base64.b64decode(document["inline"], validate=True)
        except binascii.Error as error:
            raise ValueError(error) from error
    digest = of_kind(document["digest"], str)
    if not _DIGEST.fullmatch(digest):
        msg = f"no digest: {digest:.80}"
        raise ValueError(msg)
    parts = of_kind(document.get("parts", ""), str)
    return BlobRef(digest, count(document["generation"]), count(document["length"]), parts)


def of_kind(value: Any, kind: type[_T]) -> _T:
    """Return `value`, which must be of exactly this type.

    Raises
    ------
    TypeError
        If it is not.
    """
    if type(value) is not kind:
        msg = f"{value!r:.80} is no {kind.__name__}"
        raise TypeError(msg)
    return value


def count(value: Any) -> int:
    """Return `value`, which must be an integer from 0 to 2**63 - 1.

    Raises
    ------
    TypeError, ValueError
        If it is not.
    """
    if not 0 <= of_kind(value, int) < 2**63:
        msg = f"{value!r:.80} is out of range"
        raise ValueError(msg)
    return int(value)
