"""The manifest of an entry: the one document whose creation is the commit."""

from __future__ import annotations

from dataclasses import dataclass, field

from castore.blobs import layout
from castore.blobs.blob import BlobRef
from castore.canonical import Json, seal, unseal
from castore.digest import ALGORITHMS
from castore.errors import DamagedError, FormatError
from castore.table.keymap import Chunk, KeyMap, chunk_document, chunk_of, count, of_kind

__all__ = [
    "FORMAT",
    "INLINE_ALL",
    "INLINE_ONE",
    "MAX_KEYS",
    "MAX_NBYTES",
    "Manifest",
    "put_together",
]

#: The format this code writes; it reads this and every earlier one.
FORMAT = 1
#: Largest manifest in bytes.
MAX_NBYTES = 2**20
#: Most Zarr keys that a manifest lists itself; the map of more is a blob.
MAX_KEYS = 2000
#: Largest value kept in the manifest itself, and the largest sum of them, in bytes.
INLINE_ONE, INLINE_ALL = 65536, 262144

_TOGETHER = "put together"


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
    keys : KeyMap
        Every Zarr key, and what it holds.
    map : BlobRef or None
        The blob that has `keys`, where the manifest itself does not.
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
    keys: KeyMap = field(repr=False)
    map: BlobRef | None = None

    @property
    def name(self) -> str:
        """Name of the object that holds it."""
        return layout.entry(self.table, self.key)

    @property
    def blobs(self) -> list[BlobRef]:
        """The blobs it names, each once."""
        return self.keys.blobs if self.map is None else [self.map, *self.keys.blobs]

    @property
    def metadata(self) -> dict[str, Json]:
        """Every ``zarr.json`` by Zarr key."""
        return self.keys.metadata

    @property
    def chunks(self) -> dict[str, Chunk]:
        """Every other Zarr key."""
        return self.keys.chunks

    @property
    def nbytes(self) -> int:
        """Length of all values, inline ones included."""
        return self.keys.nbytes

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
        return self.form == other.form and self.keys.same_content(other.keys)

    def to_bytes(self) -> bytes:
        """Return the document."""
        listed = self.keys if self.map is None else KeyMap()
        return seal(
            {
                **listed.document(),
                **({} if self.map is None else {"map": chunk_document(self.map)}),
                "aligned": self.aligned,
                "derivation": self.derivation,
                "digest_algorithm": self.algorithm,
                "flags": [],
                "form": self.form,
                "format": FORMAT,
                "key": self.key,
                "nonce": self.nonce,
                "origin": self.origin,
                "rows": self.rows,
                "table": self.table,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes, table: str, key: str) -> Manifest:
        """Return the manifest in `data`, read under the name of `table` and `key`.

        Where it has a `map`, its `keys` are empty until that is read.

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
                table=of_kind(document["table"], str),
                key=of_kind(document["key"], str),
                nonce=of_kind(document["nonce"], str),
                algorithm=of_kind(document["digest_algorithm"], str),
                rows=None if document["rows"] is None else count(document["rows"]),
                aligned=of_kind(document["aligned"], bool),
                form=document["form"],
                derivation=dict(document["derivation"]),
                origin=dict(document["origin"]),
                keys=KeyMap.from_document(document),
                map=_map_of(document.get("map")),
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


def _map_of(document: Json) -> BlobRef | None:
    found = None if document is None else chunk_of(document)
    if isinstance(found, bytes):
        msg = "the map of Zarr keys is no blob"
        raise TypeError(msg)
    return found
