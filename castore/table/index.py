"""Which entry of a table has a row, and where.

A hint, kept in ``<state folder>/castore/rows/<xxh3-128 of store, table and kin>``, a file
that all processes map. Whoever uses a row compares its row id with what the entry itself says.
What is missing, damaged or cannot be written is done without. A process writes the file anew
when it has learnt enough that others gain from it; processes that write at once may lose each
other's additions, and nothing else.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from castore.backend.base import Backend, ObjectInfo
from castore.blobs import layout
from castore.canonical import identify
from castore.digest import identity
from castore.errors import DamagedError, FormatError
from castore.identity.rows import RowIds
from castore.table import snapshot
from castore.table.entry import Entry, find_entry
from castore.table.manifest import Manifest
from castore.table.snapshot import Indexed, Snapshot
from castore.threads import take_turns

__all__ = ["Indexed", "Kin", "Places", "RowIndex", "folder"]

#: The file is written anew for so many manifests that it lacks, or a sixteenth more rows.
_MANY, _SHARE = 64, 16

_log = logging.getLogger("castore")


@dataclass(frozen=True)
class Kin:
    """Which entries may lend rows to a request.

    Attributes
    ----------
    table : str
        Table id.
    name : str
        32 hex digits: digest of whatever decides `accepts`.
    accepts : callable
        Tells whether an entry may lend rows, by its manifest.
    """

    table: str
    name: str
    accepts: Callable[[Manifest], bool] = field(compare=False)


@dataclass(frozen=True)
class Places:
    """Where rows are.

    Attributes
    ----------
    entry : ndarray
        int32 (n,), the number of an entry among `entries`; -1 for a row that none has.
    position : ndarray
        int64 (n,), the row's position in that entry; anything for a row that none has.
    entries : tuple of Indexed
        The entries of the index when it was asked.
    """

    entry: NDArray[np.int32]
    position: NDArray[np.int64]
    entries: tuple[Indexed, ...]


class RowIndex:
    """The rows that entries of one table may lend; several threads may use it at once.

    Parameters
    ----------
    backend : Backend
        The store.
    kin : Kin
        Which table, and which of its entries.
    kept : bool
        Whether to keep a file of it for other processes.
    """

    def __init__(self, backend: Backend, kin: Kin, *, kept: bool = True) -> None:
        self._backend = backend
        self._kin = kin
        name = identity("row index", f"{backend.url}\n{kin.table}\n{kin.name}".encode())
        self._path = folder() / name if kept else None
        self._snapshot: Snapshot | None = None  # replaced, never changed
        self._saved = (0, 0)
        self.unlock()
        _alive.add(self)

    @property
    def entries(self) -> Sequence[Indexed]:
        """The entries that lend rows, as the last refresh found them."""
        return self._snapshot.entries if self._snapshot else ()

    def unlock(self) -> None:
        """Make the lock anew: a forked child inherits it in whatever state it was."""
        self._lock = threading.Lock()

    def look_up(self, row_ids: RowIds, *, square: bool = True) -> Places:
        """Say where rows are, by the last refresh; refreshes if there was none.

        Parameters
        ----------
        row_ids : ndarray
            uint8 (n, 16).
        square : bool
            Whether a row may be taken from an entry that is square; if not, a row whose newest
            holder is square counts as absent.
        """
        if self._snapshot is None:
            self.refresh()
        now = self._snapshot or Snapshot()
        entry, position = now.records.find(row_ids)
        if not square:
            squares = np.array([*(e.square for e in now.entries), False])  # -1 stays -1
            entry[squares[entry]] = -1
        return Places(entry, position, now.entries)

    def refresh(self) -> None:
        """Learn what changed in the store: one listing, and the manifests that are new to it.

        Raises
        ------
        BackendError
            If the store cannot be read; the index is then as it was.
        """
        with self._lock:
            before = self._snapshot or self._load()
            infos = {
                key: info
                for info in self._backend.list(layout.entries(self._kin.table))
                if (key := layout.key_of(info.name))
            }
            listed = {key: _tag(info) for key, info in infos.items()}
            if listed != before.tags:
                fresh = [key for key, tag in listed.items() if before.tags.get(key) != tag]
                after = self._grown(before.those(listed), [infos[key] for key in fresh])
                self._save(before, after)
                before = after
            self._snapshot = before

    def _grown(self, before: Snapshot, fresh: list[ObjectInfo]) -> Snapshot:
        """Return `before` with the entries whose manifests are `fresh`."""
        news = _News(self._backend, self._kin)
        news.read(fresh)
        candidates = [*before.entries, *before.others, *news.lending]
        while True:
            lending, others = _of_one_schema(candidates)
            kept = before if lending[: len(before.entries)] == before.entries else Snapshot()
            first = len(kept.entries)
            unread = [e for e in lending[first:] if not news.read_rows(e)]
            if not unread:
                break
            candidates = [e for e in candidates if e not in unread]
        rows = [news.rows[e.key] for e in lending[first:]]
        return Snapshot(
            lending,
            others,
            {**before.refused, **news.refused},
            {**before.damaged, **news.damaged},
            kept.records.merged(rows, first, _ages(lending)),
        )

    def _load(self) -> Snapshot:
        """Return what the file has; nothing where there is any trouble."""
        if self._path is None:
            return Snapshot()
        try:
            found = snapshot.read(self._path)
        except FileNotFoundError:
            return Snapshot()
        except Exception as error:
            _log.debug("the row index %s is built anew: %r", self._path, error)
            return Snapshot()
        self._saved = found.extent
        return found

    def _save(self, before: Snapshot, after: Snapshot) -> None:
        """Write the file, if others gain from it."""
        manifests, rows = after.extent
        kept = after.entries[: len(before.entries)] == before.entries
        few = manifests - self._saved[0] < _MANY and (rows - self._saved[1]) * _SHARE < rows
        if self._path is None or (kept and few):
            return
        try:
            snapshot.write(self._path, after)
            self._saved = after.extent
        except Exception as error:
            _log.debug("the row index %s is not kept: %r", self._path, error)


def folder() -> Path:
    """Return the folder of all row indexes of this machine and user."""
    import platformdirs

    return platformdirs.user_state_path("castore", appauthor=False) / "rows"


_alive: weakref.WeakSet[RowIndex] = weakref.WeakSet()


def _unlock_all() -> None:
    for index in list(_alive):
        index.unlock()


os.register_at_fork(after_in_child=_unlock_all)


class _News:
    """What the manifests say that are new to an index."""

    def __init__(self, backend: Backend, kin: Kin) -> None:
        self.lending: list[Indexed] = []
        self.rows: dict[str, RowIds] = {}
        self.refused: dict[str, str] = {}
        self.damaged: dict[str, str] = {}
        self._backend = backend
        self._kin = kin

    def read(self, infos: Sequence[ObjectInfo]) -> None:
        """Read the manifests that `infos` are of, several at a time."""
        take_turns(lambda number: self._read(infos[number]), len(infos))
        self.lending.sort(key=lambda entry: entry.age)

    def _read(self, info: ObjectInfo) -> None:
        key, tag = layout.key_of(info.name) or "", _tag(info)
        try:
            entry = find_entry(self._backend, self._kin.table, key)
            if entry is None:
                return  # gone since it was listed
            if not entry.manifest.aligned or not self._kin.accepts(entry.manifest):
                self.refused[key] = tag
                return
            self.rows[key] = _rows_of(entry)
            self.lending.append(_indexed(entry, tag, info.modified))
        except (DamagedError, FormatError) as error:
            self._lost(key, tag, error)

    def read_rows(self, indexed: Indexed) -> bool:
        """Read the row ids of an entry unless they were; return False if they cannot be had."""
        if indexed.key not in self.rows:
            try:
                entry = find_entry(self._backend, self._kin.table, indexed.key)
                if entry is not None:
                    self.rows[indexed.key] = _rows_of(entry)
            except (DamagedError, FormatError) as error:
                self._lost(indexed.key, indexed.tag, error)
        return indexed.key in self.rows

    def _lost(self, key: str, tag: str, error: Exception) -> None:
        _log.debug("no rows are taken from the entry %s: %s", key, error)
        self.damaged[key] = tag


def _rows_of(entry: Entry) -> RowIds:
    found = entry.row_ids()
    extents = {column.shape[:1] for column in entry.columns.values()}
    if found is None or found.shape != (entry.manifest.rows, 16) or extents != {found.shape[:1]}:
        msg = f"{entry.manifest.name}: the entry has not one row a sample, though it says so"
        raise DamagedError(msg)
    return found


def _indexed(entry: Entry, tag: str, modified: float) -> Indexed:
    manifest, shapes = entry.manifest, [column.shape for column in entry.columns.values()]
    compute_ns, recorded = manifest.origin.get("compute_ns"), manifest.derivation.get("recorded")
    return Indexed(
        manifest.key,
        tag,
        modified,
        manifest.rows or 0,
        any(shape[1:2] == shape[:1] for shape in shapes),
        entry.schema,
        compute_ns if isinstance(compute_ns, int) else 0,
        identify("functions", recorded.get("functions") if isinstance(recorded, dict) else None),
    )


def _tag(info: ObjectInfo) -> str:
    return repr((info.tag, info.size, info.modified))


def _of_one_schema(
    entries: Sequence[Indexed],
) -> tuple[tuple[Indexed, ...], tuple[Indexed, ...]]:
    """Part entries into those with the schema of the newest and the others."""
    newest = max(entries, key=lambda entry: entry.age, default=None)
    if newest is None:
        return (), ()
    alike = [entry.schema == newest.schema for entry in entries]
    chosen = tuple(entry for entry, same in zip(entries, alike, strict=True) if same)
    return chosen, tuple(entry for entry, same in zip(entries, alike, strict=True) if not same)


def _ages(entries: Sequence[Indexed]) -> NDArray[np.int64]:
    ages = np.empty(len(entries), np.int64)
    ages[sorted(range(len(entries)), key=lambda number: entries[number].age)] = range(len(entries))
    return ages
