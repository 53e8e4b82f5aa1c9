"""What a store holds, read from its manifests."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass

from castore.backend.base import Backend
from castore.blobs import layout
from castore.blobs.codec import NONE
from castore.canonical import Json
from castore.errors import DamagedError, FormatError, NotFoundError
from castore.table.column import Column
from castore.table.entry import Entry, find_entry, manifests
from castore.table.values import Values

__all__ = [
    "EntryInfo",
    "TableInfo",
    "Usage",
    "created",
    "entry_info",
    "find",
    "remove",
    "scan",
    "tables",
    "usage",
]

_log = logging.getLogger("castore")


@dataclass(frozen=True)
class EntryInfo:
    """One entry, for people and programs.

    Attributes
    ----------
    key, table : str
        32 hex digits each.
    suffix : str
        What the user calls the function.
    rows : int or None
        Samples it was computed over; None where it belongs to no loader.
    columns : dict[str, str]
        dtype and shape by column: ``"float32 (5000, 2048)"``, and the codec: ``", zstd"``.
    nbytes : int
        Bytes of all its values.
    created : float
        When it was published, seconds since the epoch by the server's clock.
    compute_seconds : float
        How long the function took.
    model : Json
        Digest of the model, or digests by path.
    version : Json
        The version the user gave.
    derivation : dict
        What the key is the digest of.
    origin : dict
        Who wrote it.
    """

    key: str
    table: str
    suffix: str
    rows: int | None
    columns: dict[str, str]
    nbytes: int
    created: float
    compute_seconds: float
    model: Json
    version: Json
    derivation: dict[str, Json]
    origin: dict[str, Json]


@dataclass(frozen=True)
class TableInfo:
    """One table: everything one function computed with one model and one set of parameters.

    Attributes
    ----------
    table : str
        Table id, 32 hex digits.
    suffix : str
        What the user calls the function.
    model, version : Json
        As in `EntryInfo`.
    entries, rows, nbytes : int
        Sums over its entries; rows held twice count twice.
    compute_seconds : float
        How long the function took for all of them.
    created : float
        When its newest entry was published.
    """

    table: str
    suffix: str
    model: Json
    version: Json
    entries: int
    rows: int
    nbytes: int
    compute_seconds: float
    created: float


@dataclass(frozen=True)
class Usage:
    """Bytes of a store.

    Attributes
    ----------
    logical : int
        Bytes of all entries, as if nothing were shared.
    referenced : int
        Bytes of the blobs entries name, each once.
    unreferenced : int
        Bytes of blobs no entry names; collection will remove them.
    documents : int
        Bytes of manifests and other documents.
    """

    logical: int
    referenced: int
    unreferenced: int
    documents: int

    @property
    def physical(self) -> int:
        """Bytes of all objects."""
        return self.referenced + self.unreferenced + self.documents


def scan(backend: Backend, table: str | None = None) -> Iterator[Entry]:
    """Yield every entry that can be read, of `table` or of the store, by object name.

    Those that cannot are logged, each with its reason.
    """
    for name in manifests(backend, table):
        table_id, key = layout.table_of(name), layout.key_of(name)
        if table_id is None or key is None:
            continue
        try:
            entry = find_entry(backend, table_id, key)
        except (DamagedError, FormatError) as error:
            _log.warning("not listed: %s", error)
            continue
        if entry is not None:
            yield entry


def created(entry: Entry) -> float:
    """Return when `entry` was published, seconds since the epoch by the server's clock."""
    seen = entry.backend.stat(entry.manifest.name)
    return seen.modified if seen else math.nan


def entry_info(entry: Entry) -> EntryInfo:
    """Describe `entry`."""
    manifest = entry.manifest
    derivation = manifest.derivation.get("table", {})
    return EntryInfo(
        key=manifest.key,
        table=manifest.table,
        suffix=derivation.get("suffix", ""),
        rows=manifest.rows,
        columns=_columns(entry),
        nbytes=manifest.nbytes,
        created=created(entry),
        compute_seconds=manifest.compute_ns / 1e9,
        model=derivation.get("model"),
        version=derivation.get("version"),
        derivation=manifest.derivation,
        origin=manifest.origin,
    )


def _columns(entry: Entry) -> dict[str, str]:
    """Return dtype and shape by column; of a Zarr hierarchy, by the path of each array."""
    if not entry.is_hierarchy:
        return {name: _described(column) for name, column in entry.columns.items()}
    return {
        path or "/": f"{_dtype(node)} {tuple(node.get('shape', ()))}"
        for path, node in Values(entry).arrays.items()
    }


def _dtype(node: dict[str, Json]) -> str:
    kind = node.get("data_type")
    return str(kind.get("name") if isinstance(kind, dict) else kind)


def tables(backend: Backend) -> list[TableInfo]:
    """Describe every table with an entry, newest first."""
    groups: dict[str, list[EntryInfo]] = {}
    for entry in scan(backend):
        groups.setdefault(entry.manifest.table, []).append(entry_info(entry))
    found = [
        TableInfo(
            table=table,
            suffix=infos[0].suffix,
            model=infos[0].model,
            version=infos[0].version,
            entries=len(infos),
            rows=sum(info.rows or 0 for info in infos),
            nbytes=sum(info.nbytes for info in infos),
            compute_seconds=sum(info.compute_seconds for info in infos),
            created=max(info.created for info in infos),
        )
        for table, infos in groups.items()
    ]
    return sorted(found, key=lambda info: info.created, reverse=True)


def locate(backend: Backend, prefix: str) -> tuple[str, str]:
    """Return table id and key of the entry whose key begins with `prefix`.

    Raises
    ------
    NotFoundError
        If there is none, or more than one.
    """
    names = [name for name in manifests(backend) if (layout.key_of(name) or "").startswith(prefix)]
    if len(names) != 1 or not prefix:
        what = "no entry" if not names else f"{len(names)} entries"
        msg = f"{backend.url} has {what} whose key begins with {prefix!r}; `castore ls` lists them"
        raise NotFoundError(msg)
    return layout.table_of(names[0]) or "", layout.key_of(names[0]) or ""


def find(backend: Backend, prefix: str) -> Entry:
    """Return the entry whose key begins with `prefix`.

    Raises
    ------
    NotFoundError
        If there is none, or more than one.
    DamagedError
        If its manifest is damaged.
    """
    table, key = locate(backend, prefix)
    entry = find_entry(backend, table, key)
    if entry is None:
        msg = f"{backend.url}: the entry {prefix!r} was removed meanwhile"
        raise NotFoundError(msg)
    return entry


def remove(backend: Backend, prefix: str) -> EntryInfo:
    """Remove the manifest of the entry whose key begins with `prefix`; return what it was.

    Of an entry whose manifest is damaged only table and key are known.

    Raises
    ------
    NotFoundError
        If there is none, or more than one.
    """
    table, key = locate(backend, prefix)
    try:
        info = entry_info(find(backend, prefix))
    except DamagedError:
        info = EntryInfo(key, table, "", None, {}, 0, math.nan, 0.0, None, None, {}, {})
    backend.delete([layout.entry(table, key)])
    return info


def usage(backend: Backend) -> Usage:
    """Add up what the store's objects take."""
    logical = 0
    named: set[str] = set()
    for entry in scan(backend):
        logical += entry.manifest.nbytes
        named.update(ref.name for ref in entry.manifest.blobs)
    referenced = unreferenced = documents = 0
    for info in backend.list(""):
        if not info.name.startswith(layout.BLOBS):
            documents += info.size
        elif info.name in named:
            referenced += info.size
        else:
            unreferenced += info.size
    return Usage(logical, referenced, unreferenced, documents)


def _described(column: Column) -> str:
    """Say in a few words what a column is."""
    codec = "" if column.codec == NONE else f", {column.codec}"
    return f"{column.dtype} {column.shape}{codec}"
