"""Where rows are: one array sorted by row id, never an object a row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from castore.identity.rows import RowIds
from castore.threads import take_turns

__all__ = ["RECORD", "Records"]

#: A row: its id as two numbers, its position in an entry, and the number of that entry.
RECORD = np.dtype([("high", "<u8"), ("low", "<u8"), ("position", "<i8"), ("entry", "<u8")])

#: Row ids looked up at a time: what they need fits the second cache.
_BATCH = 1 << 15

_Array = NDArray[Any]


@dataclass(frozen=True)
class Records:
    """Rows sorted by id, each once, and where each range of ids begins among them."""

    data: _Array = field(default_factory=lambda: np.empty(0, RECORD))

    @cached_property
    def _bits(self) -> int:
        """How many leading bits of an id choose its range: two to four ranges a row."""
        return len(self.data).bit_length() + 1

    @cached_property
    def _starts(self) -> _Array:
        counts = np.bincount(self._range(self.data["high"]), minlength=1 << self._bits)
        starts = np.zeros(len(counts) + 1, np.int32 if len(self.data) < 2**31 else np.int64)
        np.cumsum(counts, out=starts[1:])
        return starts

    def _range(self, high: _Array) -> _Array:
        return (high >> np.uint64(64 - self._bits)).view(np.int64)

    def find(self, row_ids: RowIds) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return entry and position of each row; the entry is -1 where there is none."""
        halves = np.ascontiguousarray(row_ids).view("<u8")
        entry = np.full(len(halves), -1, np.int32)
        position = np.zeros(len(halves), np.int64)
        starts = self._starts

        def turn(number: int) -> None:
            batch = slice(number * _BATCH, (number + 1) * _BATCH)
            high, low = np.ascontiguousarray(halves[batch].T)
            self._find(starts, high, low, entry[batch], position[batch])

        if len(self.data):
            take_turns(turn, -(-len(halves) // _BATCH))
        return entry, position

    def _find(
        self, starts: _Array, high: _Array, low: _Array, entry: _Array, position: _Array
    ) -> None:
        """Fill in entry and position: by the first row of an id's range, or a search within it.

        Row ids are digests, so few ranges have a second row. One that has all of them, because
        somebody made them up, takes longer and is as right.
        """
        ranges = self._range(high)
        first = starts.take(ranges)
        met = self.data.take(first, mode="clip")
        found = (met["high"] == high) & (met["low"] == low)
        np.copyto(entry, met["entry"], where=found, casting="unsafe")
        np.copyto(position, met["position"])
        which = np.flatnonzero(~found)
        first, last = first.take(which) + 1, starts.take(ranges.take(which) + 1)
        for places, rows in self._search(which, first, last, high.take(which), low.take(which)):
            entry[places] = rows["entry"]
            position[places] = rows["position"]

    def _search(
        self, which: _Array, first: _Array, last: _Array, high: _Array, low: _Array
    ) -> Iterator[tuple[_Array, _Array]]:
        """Yield those of `which` whose rows lie from `first` to before `last`, with the rows."""
        while len(which):
            left = np.flatnonzero(first < last)
            which, first, last, high, low = (a.take(left) for a in (which, first, last, high, low))
            middle = first + (last - first) // 2
            met = self.data.take(middle)
            same = met["high"] == high
            found = same & (met["low"] == low)
            yield which[found], met[found]
            after = np.where(same, met["low"] < low, met["high"] < high)
            first = np.where(after, middle + 1, first)
            last = np.where(found, first, np.where(after, last, middle))

    def merged(self, rows: Sequence[RowIds], first: int, ages: _Array) -> Records:
        """Return these records and those of more entries.

        Parameters
        ----------
        rows : sequence of ndarray
            Row ids of each.
        first : int
            The number of the first of them.
        ages : ndarray
            int64, by number of an entry: the larger, the newer.
        """
        fresh = np.concatenate(
            [
                np.empty(0, RECORD),
                *(_records(ids, number) for number, ids in enumerate(rows, first)),
            ]
        )
        fresh = fresh[np.argsort(fresh["high"])]
        if not len(self.data):
            return Records(_each_once(fresh, ages))
        places = np.searchsorted(self.data["high"], fresh["high"])
        return Records(_each_once(np.insert(self.data, places, fresh), ages))


def _records(row_ids: RowIds, number: int) -> _Array:
    found = np.empty(len(row_ids), RECORD)
    found["high"], found["low"] = np.ascontiguousarray(row_ids).view("<u8").T
    found["position"] = np.arange(len(found))
    found["entry"] = number
    return found


def _each_once(records: _Array, ages: _Array) -> _Array:
    """Keep the newest of each id, of records sorted by its first half; sort by the second too."""
    high = np.ascontiguousarray(records["high"])
    equal = high[1:] == high[:-1]
    if not equal.any():
        return records
    tied = np.flatnonzero(np.append(equal, False) | np.append(False, equal))
    runs = records[tied]
    order = (runs["position"], -ages[runs["entry"].view(np.int64)], runs["low"], runs["high"])
    records[tied] = runs = runs[np.lexsort(order)]
    again = (runs["high"][1:] == runs["high"][:-1]) & (runs["low"][1:] == runs["low"][:-1])
    return np.delete(records, tied[1:][again])
