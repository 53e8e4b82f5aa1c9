"""An entry beside what is asked for: in what they differ, and how far that takes them apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from castore.errors import DamagedError
from castore.explain.comparing import (
    code_of,
    differences,
    recorded,
    table_differences,
    weight,
)
from castore.explain.difference import Difference
from castore.identity.request import Request
from castore.table.entry import Entry

__all__ = ["Candidate", "Subject", "compare"]


#: How a part of the rows is called.
_NUMBERS = {0.0: "none of the", 1.0: "all"}


@dataclass(frozen=True)
class Subject:
    """What is asked for: a request, or an entry as if somebody asked for it.

    Attributes
    ----------
    name : str
        What messages call the function.
    table, key : str
        32 hex digits each.
    documents : mapping
        The derivation, as a manifest has it.
    row_ids : ndarray or None
        uint8 (n, 16); None where the result belongs to no list of rows.
    """

    name: str
    table: str
    key: str
    documents: Mapping[str, Any]
    row_ids: NDArray[np.uint8] | None

    @classmethod
    def of_request(cls, request: Request) -> Subject:
        """Return a request."""
        function = request.function
        documents = request.documents()
        return cls(function.name, function.table, request.key, documents, request.row_ids)

    @classmethod
    def of_entry(cls, entry: Entry) -> Subject:
        """Return an entry; its rows only where they are intact."""
        manifest = entry.manifest
        name = manifest.derivation.get("table", {}).get("suffix") or "a function without a suffix"
        return cls(name, manifest.table, manifest.key, manifest.derivation, _row_ids(entry))


@dataclass(frozen=True)
class Candidate:
    """An entry beside what is asked for.

    Attributes
    ----------
    entry : Entry
        The entry.
    differences : list of Difference
        What is keyed and differs.
    share : float
        Of the rows asked for, the part that it has; 0 where that was not counted.
    """

    entry: Entry
    differences: list[Difference]
    share: float = 0.0

    @property
    def distance(self) -> float:
        """How far it is: rows count as one difference, and as more the fewer of them it has."""
        return weight(self.differences) + (2 - self.share if self._rows else 0)

    @property
    def _rows(self) -> Difference | None:
        return next((found for found in self.differences if found.path == "rows"), None)

    @property
    def _has_other_source(self) -> bool:
        return any(found.path.startswith("source") for found in self.differences)

    def counted(self, subject: Subject, limit: int) -> Candidate:
        """Return it with a word on its rows, which are counted if there are at most `limit`."""
        rows = self._rows
        if rows is None or not rows.before or not rows.after or self._has_other_source:
            return self
        small = max(rows.before[0], rows.after[0]) <= limit
        known = _row_ids(self.entry) if small else None
        if known is None or subject.row_ids is None:
            same_number = rows.before[0] == rows.after[0]
            return self._with_note("others, or in another order" if same_number else "", 0.0)
        return self._with_note(*_overlap(known, subject.row_ids))

    def recorded(self, subject: Subject) -> list[Difference]:
        """Return what is in no key and differs."""
        return recorded(self.entry.manifest.derivation, subject.documents)

    def is_like(self, subject: Subject) -> bool:
        """Tell whether it has to do with what is asked for.

        Under another suffix the code must be the same, or, where it is not known, all else of the
        function; a Zarr hierarchy is like no result then. Without a suffix other code must have
        been run over some of the rows.
        """
        documents = self.entry.manifest.derivation
        before, after = code_of(documents), code_of(subject.documents)
        one, two = documents.get("table", {}), subject.documents.get("table", {})
        if one.get("suffix") != two.get("suffix"):
            if any(found.path == "hierarchy" for found in self.differences):
                return False
            return before == after if before and after else len(table_differences(one, two)) == 1
        if two.get("suffix") or before == after:
            return True
        return not self._has_other_source and (self._rows is None or self.share > 0)

    def _with_note(self, note: str, share: float) -> Candidate:
        found = [replace(d, note=note) if d.path == "rows" else d for d in self.differences]
        return replace(self, differences=found, share=share)


def compare(entry: Entry, subject: Subject) -> Candidate:
    """Return `entry` beside what is asked for."""
    return Candidate(entry, differences(entry.manifest.derivation, subject.documents))


def _row_ids(entry: Entry) -> NDArray[np.uint8] | None:
    try:
        return entry.row_ids()
    except DamagedError:
        return None


def _overlap(known: NDArray[np.uint8], asked: NDArray[np.uint8]) -> tuple[str, float]:
    """Say how many of the rows asked for are known; return that, and their part."""
    one, two = _halves(known), _halves(asked)
    common = int(np.isin(two, one).sum())
    n, m = len(two), len(one)
    if np.array_equal(np.sort(one), np.sort(two)):
        return "the same rows in another order", 1.0
    part = common / n if n else 0.0
    found = _NUMBERS.get(part, f"{common:,} of the")
    return f"{found} {n:,} rows are {'the same' if n == m else f'among its {m:,}'}", part


def _halves(row_ids: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return the first half of each id, which tells rows apart well enough to count them."""
    return np.ascontiguousarray(row_ids[:, :8]).view(np.uint64).reshape(-1)
