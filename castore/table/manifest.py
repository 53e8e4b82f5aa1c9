"""The manifest of an entry: the one document whose creation is the commit."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from castore.blobs import layout
from castore.blobs.blob import BlobRef
from castore.canonical import Json, seal, unseal
from castore.digest import ALGORITHMS
from castore.errors import DamagedError, FormatError

__all__ = ["FORMAT", "INLINE_ALL", "INLINE_ONE", "MAX_NBYTES", "Chunk", "Manifest", "put_together"]

#: The format this code writes; it reads this and every earlier one.
FORMAT = 1
#: Largest manifest in bytes.
MAX_NBYTES = 2**20
#: Largest value kept in the manifest itself, and the largest sum of them, in bytes.
INLINE_ONE, INLINE_ALL = 65536, 262144

_TOGETHER = "put together"

_DIGEST = re.compile(r"[0-9a-f]{32}|[0-9a-f]{64}")

_T = TypeVar("_T")

#: What a Zarr key holds: its bytes, or the blob that has them.
Chunk: TypeAlias = bytes | BlobRef


@dataclass(frozen=True)
class Manifest:
    """One entry, as its document says it.

    Attributes
    ----------
    table, key : str
        Table id and key.
    nonce : str
        Random, to tell one's own commit from another's after a lost answer.
    algorithm : str
        Digest that names its blobs.
    rows : int or None
        Number of samples it was computed over; None where it belongs to no loader.
    aligned : bool
        Whether every array has one row a sample.
    form : Json
        How the result is put together from the columns (`castore.table.tree`).
    derivation : dict
        What the table id and the key are digests of, and what was recorded beside.
    origin : dict
        Who wrote it: writer, host, system, Python, compute time in ns.
    metadata : dict
        Every ``zarr.json`` by Zarr key.
    chunks : dict
        Every other Zarr key.
    """

    table: str
    key: str
    nonce: str
    algorithm: str
    rows: int | None
    aligned: bool
    form: Json
    derivation: dict[str, Json]
    origin: dict[str, Json]
    metadata: dict[str, Json]
    chunks: dict[str, Chunk] = field(repr=False)

    @property
    def name(self) -> str:
        """Name of the object that holds it."""
        return layout.entry(self.table, self.key)

    @property
    def blobs(self) -> list[BlobRef]:
        """The blobs it names, each once."""
        return list(dict.fromkeys(c for c in self.chunks.values() if isinstance(c, BlobRef)))

    @property
    def nbytes(self) -> int:
        """Length of all values, inline ones included."""
        return sum(len(c) if isinstance(c, bytes) else c.length for c in self.chunks.values())

    @property
    def compute_ns(self) -> int:
        """How long the function ran, in nanoseconds; 0 where nobody knows."""
        found = self.origin.get("compute_ns")
        return found if isinstance(found, int) else 0

    @property
    def together(self) -> str:
        """How it came about, if the function never ran over exactly these rows.

        ``"part"``: they are part of what it returned over more rows; ``"mixed"``: they were
        gathered from several such results, perhaps of other batch sizes; ``""``: it did.
        """
        found = self.derivation.get("recorded", {}).get(_TOGETHER, "")
        return found if isinstance(found, str) else "mixed"

    def same_content(self, other: Manifest) -> bool:
        """Tell whether `other` returns the same bytes, wherever they lie."""
        return (
            self.form == other.form
            and self.metadata == other.metadata
            and {name: _content(c) for name, c in self.chunks.items()}
            == {name: _content(c) for name, c in other.chunks.items()}
        )

    def to_bytes(self) -> bytes:
        """Return the document."""
        return seal(
            {
                "absent": [],
                "aligned": self.aligned,
                "chunks": {name: _chunk_document(c) for name, c in self.chunks.items()},
                "derivation": self.derivation,
                "digest_algorithm": self.algorithm,
                "flags": [],
                "form": self.form,
                "format": FORMAT,
                "key": self.key,
                "metadata": self.metadata,
                "nonce": self.nonce,
                "origin": self.origin,
                "rows": self.rows,
                "table": self.table,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes, table: str, key: str) -> Manifest:
        """Return the manifest in `data`, read under the name of `table` and `key`.

        Raises
        ------
        DamagedError
            If it is not whole, or names another table or key than its own name does.
        FormatError
            If it was written by a newer castore.
        """
        name = layout.entry(table, key)
        document = unseal(data, name)
        _check_format(document, name)
        try:
            manifest = cls(
                table=_of(document["table"], str),
                key=_of(document["key"], str),
                nonce=_of(document["nonce"], str),
                algorithm=_of(document["digest_algorithm"], str),
                rows=None if document["rows"] is None else _count(document["rows"]),
                aligned=_of(document["aligned"], bool),
                form=document["form"],
                derivation=dict(document["derivation"]),
                origin=dict(document["origin"]),
                metadata=dict(document["metadata"]),
                chunks={zarr: _chunk(c) for zarr, c in document["chunks"].items()},
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            msg = f"{name}: the manifest is not well formed ({error!r:.200})"
            raise DamagedError(msg) from error
        if (manifest.table, manifest.key) != (table, key) or manifest.algorithm not in ALGORITHMS:
            msg = f"{name}: the manifest is of another entry"
            raise DamagedError(msg)
        return manifest


def put_together(derivation: dict[str, Json], how: str = "part") -> dict[str, Json]:
    """Return `derivation`, recording that the function never ran over exactly these rows.

    What was mixed stays mixed.
    """
    recorded = derivation.get("recorded", {})
    how = "mixed" if recorded.get(_TOGETHER) == "mixed" else how
    return {**derivation, "recorded": {**recorded, _TOGETHER: how}}


def _check_format(document: dict[str, Json], name: str) -> None:
    found, flags = document.get("format"), document.get("flags")
    if found != FORMAT or flags != []:
        msg = (
            f"{name}: written in format {found!r} with the flags {flags!r}; this castore reads "
            f"format {FORMAT} without flags: install a newer castore to read it"
        )
        raise FormatError(msg)


def _content(chunk: Chunk) -> Json:
    return chunk if isinstance(chunk, bytes) else (chunk.digest, chunk.length)


def _chunk_document(chunk: Chunk) -> Json:
    if isinstance(chunk, bytes):
        return {"inline": base64.b64encode(chunk).decode()}
    document = {"digest": chunk.digest, "generation": chunk.generation, "length": chunk.length}
    return {**document, "parts": chunk.parts} if chunk.parts else document


def _chunk(document: Json) -> Chunk:
    if "inline" in document:
        try:
            return base64.b64decode(document["inline"], validate=True)
        except binascii.Error as error:
            raise ValueError(error) from error
    digest = _of(document["digest"], str)
    if not _DIGEST.fullmatch(digest):
        msg = f"no digest: {digest:.80}"
        raise ValueError(msg)
    parts = _of(document.get("parts", ""), str)
    return BlobRef(digest, _count(document["generation"]), _count(document["length"]), parts)


def _of(value: Any, kind: type[_T]) -> _T:
    if type(value) is not kind:
        msg = f"{value!r:.80} is no {kind.__name__}"
        raise TypeError(msg)
    return value


def _count(value: Any) -> int:
    if not 0 <= _of(value, int) < 2**63:
        msg = f"{value!r:.80} is out of range"
        raise ValueError(msg)
    return int(value)
