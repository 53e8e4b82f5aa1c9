"""The entry of a store that is most like what is asked for, found at a bounded cost."""

from __future__ import annotations

import contextlib
import itertools
import operator
from collections.abc import Iterator
from dataclasses import dataclass

from castore.backend.base import Backend, ObjectInfo
from castore.blobs import layout
from castore.canonical import unseal
from castore.errors import DamagedError, FormatError
from castore.explain.candidate import Candidate, Subject, compare
from castore.explain.comparing import table_differences, weight
from castore.explain.difference import Difference
from castore.table.entry import find_entry

__all__ = ["GLANCE", "SEARCH", "Bounds", "nearest"]

#: What is passed over: documents that are damaged, of a newer castore, or not well formed.
_UNREADABLE = (DamagedError, FormatError, AttributeError, LookupError, TypeError, ValueError)
#: Among how many tables the manifests to be read are shared out.
_SPREAD = 8


@dataclass(frozen=True)
class Bounds:
    """How much is read at most.

    Attributes
    ----------
    names : int
        Objects listed.
    tables : int
        Documents of tables, the newest.
    entries, nbytes : int
        Manifests, the newest, and bytes of them together.
    counted, rows : int
        Entries whose rows are counted, and rows each of them may have.
    """

    names: int
    tables: int
    entries: int
    nbytes: int
    counted: int
    rows: int


#: For somebody who asks why.
SEARCH = Bounds(1_000_000, 512, 512, 2**26, 8, 2**26)
#: For the log line of a miss.
GLANCE = Bounds(1_000, 64, 16, 2**19, 1, 2**15)


def nearest(
    backend: Backend, subject: Subject, bounds: Bounds, *, besides: str = ""
) -> Candidate | None:
    """Return the entry most like `subject`, or None if nothing is like it.

    Parameters
    ----------
    backend : Backend
        The store.
    subject : Subject
        What is asked for.
    bounds : Bounds
        How much is read.
    besides : str
        Key of an entry that does not count.
    """
    found: list[Candidate] = []
    for info in _manifests(backend, subject, bounds, besides):
        with contextlib.suppress(*_UNREADABLE):
            found += _candidates(backend, info.name, subject)
    alike: list[Candidate] = []
    for candidate in sorted(found, key=_distance)[: bounds.counted]:
        with contextlib.suppress(*_UNREADABLE):
            counted = candidate.counted(subject, bounds.rows)
            if counted.is_like(subject) and counted.entry.columns is not None:
                alike.append(counted)
    return min(alike, key=_distance, default=None)


def _candidates(backend: Backend, name: str, subject: Subject) -> Iterator[Candidate]:
    entry = find_entry(backend, layout.table_of(name) or "", layout.key_of(name) or "")
    if entry is not None:
        yield compare(entry, subject)


def _distance(candidate: Candidate) -> float:
    return candidate.distance


def _manifests(
    backend: Backend, subject: Subject, bounds: Bounds, besides: str
) -> Iterator[ObjectInfo]:
    """Yield manifests: the newest of the table asked for, or else of those that differ least."""
    tables, _ = _listed(backend, layout.entries(subject.table), bounds, besides)
    if not tables:
        tables, whole = _listed(backend, layout.TABLES, bounds, besides)
        tables = _by_difference(backend, tables[: bounds.tables], subject, whole=whole)
    each = max(1, bounds.entries // max(1, min(len(tables), _SPREAD)))
    room = bounds.nbytes
    for info in itertools.islice((i for infos in tables for i in infos[:each]), bounds.entries):
        room -= info.size
        if room >= 0:
            yield info


def _listed(
    backend: Backend, folder: str, bounds: Bounds, besides: str
) -> tuple[list[list[ObjectInfo]], bool]:
    """Return manifests by table, both newest first, and whether those are all."""
    names = backend.list(folder)
    tables: dict[str, list[ObjectInfo]] = {}
    for info in itertools.islice(names, bounds.names):
        table, key = layout.table_of(info.name), layout.key_of(info.name)
        if table is not None and key != besides:
            tables.setdefault(table, []).append(info)
    for infos in tables.values():
        infos.sort(key=_age)
    return sorted(tables.values(), key=lambda infos: _age(infos[0])), next(names, None) is None


def _age(info: ObjectInfo) -> float:
    return -info.modified


def _by_difference(
    backend: Backend, tables: list[list[ObjectInfo]], subject: Subject, *, whole: bool
) -> list[list[ObjectInfo]]:
    """Return `tables`, those first whose functions differ least from what is asked for.

    Where these are not all tables there are, one of another suffix says nothing: one of the same
    may be among the others.
    """
    ranked: list[tuple[int, list[ObjectInfo]]] = []
    for infos in tables:
        with contextlib.suppress(*_UNREADABLE):
            found = _differing(backend, layout.table_of(infos[0].name) or "", subject)
            if whole or all(difference.path != "suffix" for difference in found):
                ranked.append((weight(found), infos))
    return [infos for _, infos in sorted(ranked, key=operator.itemgetter(0))]


def _differing(backend: Backend, table: str, subject: Subject) -> list[Difference]:
    """Return in what the function of a table differs from what is asked for.

    Raises
    ------
    DamagedError
        If its document is missing or damaged.
    """
    name = layout.table(table)
    document = unseal(backend.get(name) or b"", name)
    return table_differences(document["derivation"], subject.documents["table"])
