"""Rows of entries, copied to where they are wanted at the speed of memory, and checked.

The copy is checked, not the source: a mapped page may be read anew after it was looked at. A
check is of a row group (`castore.blobs.shard`), so the rows are taken *window* by window: the
groups of a window that hold a wanted row are copied as they are into memory that stays in the
processor's cache, checked there, and the rows spread from there. Rows of whole groups are put in
place at once and checked there, if they are long or come to lie side by side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import xxhash
from numpy.typing import NDArray

from castore import arrays
from castore.arrays import AnyArray
from castore.blobs.shard import rows_per_group
from castore.digest import check64
from castore.errors import DamagedError
from castore.identity.rows import RowIds
from castore.table.column import Column
from castore.table.decoding import Decoding
from castore.table.entry import Entry, Schema
from castore.table.spread import LONG, grouped, rows_of, run, spread, typed
from castore.threads import take_turns

__all__ = ["allocate", "gather", "scatter"]

#: Bytes of a window, or one row group if that is larger. A copy of so many bytes need not read
#: the memory it writes to first, and two threads seldom wait for each other.
_WINDOW = 2 << 20
#: Row ids compared at a time.
_COMPARED = 1 << 15

_Numbers = NDArray[np.int64]


def allocate(
    schema: Schema, rows: int, room: Callable[[int], NDArray[np.uint8]] | None = None
) -> dict[str, AnyArray]:
    """Return an array of `rows` rows, filled with anything, for each column of `schema`.

    Parameters
    ----------
    schema : Schema
        Names, dtypes and row shapes.
    rows : int
        How many.
    room : callable, optional
        Gives the memory, as `castore.backend.base.Room` does.
    """
    found = {}
    for name, (dtype, row) in schema.columns.items():
        kind, shape = arrays.dtype_named(dtype), (rows, *row)
        nbytes = math.prod(shape) * kind.itemsize
        if room is None or not nbytes:
            found[name] = np.empty(shape, kind)
        else:
            found[name] = room(nbytes).view(kind).reshape(shape)
    return found


def scatter(
    columns: Mapping[str, AnyArray], rows: _Numbers, into: Mapping[str, AnyArray], places: _Numbers
) -> None:
    """Set ``into[column][places[i]]`` to ``columns[column][rows[i]]`` in every column of `into`.

    Parameters
    ----------
    columns : mapping
        C-contiguous arrays.
    rows : ndarray
        int64 (m,), each below their length.
    into : mapping
        C-contiguous arrays of the same dtypes and row shapes.
    places : ndarray
        int64 (m,), each below the length of those, and each once.
    """
    for name, target in into.items():
        if target.size and len(rows):
            _scatter(rows_of(columns[name]), rows, rows_of(target), places)


def gather(
    entry: Entry,
    positions: _Numbers,
    row_ids: RowIds,
    into: Mapping[str, AnyArray],
    places: _Numbers,
) -> None:
    """Set ``into[column][places[i]]`` to row ``positions[i]`` of each column of `into`, checked.

    Parameters
    ----------
    entry : Entry
        Where the rows are.
    positions : ndarray
        int64 (k,). They may be wrong: an index is a hint.
    row_ids : ndarray
        uint8 (k, 16), what these rows are.
    into : mapping
        C-contiguous arrays, by column of the entry.
    places : ndarray
        int64 (k,), each below the length of those, and each once.

    Raises
    ------
    DamagedError
        If a byte that was used is missing or is not what was stored; if the entry has other
        rows at these positions, or rows of another dtype or shape. What `into` then has at
        `places` is anything.
    """
    _check_row_ids(entry, positions, row_ids)
    for name, target in into.items():
        column = entry.columns.get(name)
        if column is None or not _alike(column, target):
            msg = f"{entry.manifest.name}: column {name!r} has not the rows that are wanted"
            raise DamagedError(msg)
        if not column.row_nbytes or not len(positions):
            continue
        data, checks = entry.unchecked(name)
        if column.coded:
            try:
                Decoding(column.coded, data, checks, target).run(positions, places)
            except DamagedError as error:
                raise entry.damaged(name) from error
        elif checks is None:
            _scatter(typed(data, column.row_nbytes), positions, rows_of(target), places)
        elif not _Gathering(column.row_nbytes, data, checks, target).run(positions, places):
            raise entry.damaged(name)


def _check_row_ids(entry: Entry, positions: _Numbers, row_ids: RowIds) -> None:
    stored = entry.row_ids()
    if stored is None or not _are_at(stored, positions, row_ids):
        msg = f"{entry.manifest.name}: the entry has other rows than the index says"
        raise DamagedError(msg)
    if any(column.shape[:1] != stored.shape[:1] for column in entry.columns.values()):
        msg = f"{entry.manifest.name}: the entry has not one row a sample, though it says so"
        raise DamagedError(msg)


def _are_at(stored: RowIds, positions: _Numbers, row_ids: RowIds) -> bool:
    """Tell whether `stored` has `row_ids` at `positions`."""
    if not len(positions):
        return True
    if positions.min() < 0 or positions.max() >= len(stored):
        return False
    found, wanted = rows_of(stored), rows_of(np.ascontiguousarray(row_ids))
    same: list[bool] = []

    def compare(number: int) -> None:
        turn = slice(number * _COMPARED, (number + 1) * _COMPARED)
        same.append(found.take(positions[turn]).tobytes() == wanted[turn].tobytes())

    take_turns(compare, -(-len(positions) // _COMPARED))
    return all(same)


def _alike(column: Column, target: AnyArray) -> bool:
    wanted = (arrays.dtype_named(column.dtype), column.shape[1:])
    return wanted == (target.dtype, target.shape[1:])


def _scatter(source: AnyArray, rows: _Numbers, target: AnyArray, places: _Numbers) -> None:
    step = max(1, _WINDOW * len(source) // source.nbytes)

    def turn(number: int) -> None:
        some = slice(number * step, (number + 1) * step)
        spread(source, rows[some], target, places[some])

    take_turns(turn, -(-len(rows) // step))


@dataclass(frozen=True)
class _Gathering:
    """Rows of one column on their way."""

    row_nbytes: int
    data: NDArray[np.uint8]
    checks: NDArray[np.uint64]
    target: AnyArray
    #: Windows' copies no thread uses at the moment.
    spare: list[NDArray[np.uint8]] = field(default_factory=list)

    @cached_property
    def group_rows(self) -> int:
        return rows_per_group(self.row_nbytes)

    @cached_property
    def group_nbytes(self) -> int:
        return self.group_rows * self.row_nbytes

    @cached_property
    def window_groups(self) -> int:
        return max(1, _WINDOW // self.group_nbytes)

    def run(self, positions: _Numbers, places: _Numbers) -> bool:
        """Copy the rows; return whether all row groups that were used are what was stored."""
        rows = self.window_groups * self.group_rows
        windows = -(-len(self.data) // (rows * self.row_nbytes))
        if (positions[1:] < positions[:-1]).any():
            order = self._order(positions, positions // rows, windows)
            positions, places = positions[order], places[order]
        bounds = np.searchsorted(positions // rows, np.arange(windows + 1))
        used = np.flatnonzero(bounds[1:] > bounds[:-1])
        intact = np.zeros(len(used), np.bool_)

        def turn(number: int) -> None:
            window = int(used[number])
            some = slice(bounds[window], bounds[window + 1])
            intact[number] = self._take(window, positions[some] - window * rows, places[some])

        take_turns(turn, len(used))
        return bool(intact.all())

    def _order(self, positions: _Numbers, window: _Numbers, windows: int) -> _Numbers:
        """Sort by window at least: long rows by themselves, to be copied once each."""
        return np.argsort(positions) if self.row_nbytes >= LONG else grouped(window, windows)

    def _take(self, window: int, rows: _Numbers, places: _Numbers) -> bool:
        """Copy rows, counted within `window`; return whether their groups are intact."""
        first = window * self.window_groups
        start = first * self.group_nbytes
        source = self.data[start : start + self.window_groups * self.group_nbytes]
        used = np.zeros(-(-len(source) // self.group_nbytes), np.bool_)
        used[rows // self.group_rows] = True
        groups = np.flatnonzero(used)
        if self._are_whole(groups, rows, len(source)) and self._can_check(places):
            spread(typed(source, self.row_nbytes), rows, rows_of(self.target), places)
            found = self._found(places)
        else:
            found = self._copy(source, groups, rows, places)
        return bool(found == self.checks[first + groups].tolist())

    def _are_whole(self, groups: _Numbers, rows: _Numbers, nbytes: int) -> bool:
        """Tell whether `rows` are all rows of `groups` in order, in a window of `nbytes`."""
        short = max(0, (int(groups[-1]) + 1) * self.group_nbytes - nbytes)
        return len(rows) * self.row_nbytes == len(groups) * self.group_nbytes - short and bool(
            (rows[1:] > rows[:-1]).all()
        )

    def _can_check(self, places: _Numbers) -> bool:
        """Tell whether rows are checked quicker where they are to be than before."""
        return self.row_nbytes >= LONG or run(places) is not None

    def _found(self, places: _Numbers) -> list[int]:
        """Return the checks of whole groups of rows that stand at `places`."""
        view = memoryview(arrays.raw(self.target))
        side_by_side = run(places)
        if side_by_side is not None:
            start, stop = side_by_side.start, side_by_side.stop
            there = view[start * self.row_nbytes : stop * self.row_nbytes]
            step = self.group_nbytes
            return [check64(there[at : at + step]) for at in range(0, len(there), step)]
        found = []
        starts = (places * self.row_nbytes).tolist()
        for number in range(0, len(starts), self.group_rows):
            state = xxhash.xxh3_64()
            for start in starts[number : number + self.group_rows]:
                state.update(view[start : start + self.row_nbytes])
            found.append(state.intdigest())
        return found

    def _copy(
        self, source: NDArray[np.uint8], groups: _Numbers, rows: _Numbers, places: _Numbers
    ) -> list[int]:
        """Copy `rows` by way of a copy of `groups`; return the checks of these."""
        try:
            copy = self.spare.pop()
        except IndexError:
            copy = np.empty(self.window_groups * self.group_nbytes, np.uint8)
        step = self.group_nbytes
        pieces = [slice(at, min(at + step, len(source))) for at in (groups * step).tolist()]
        if len(pieces) * step >= len(source):
            copy[: len(source)] = source
        else:
            for piece in pieces:
                copy[piece] = source[piece]
        view = memoryview(copy)
        found = [check64(view[piece]) for piece in pieces]
        spread(typed(copy, self.row_nbytes), rows, rows_of(self.target), places)
        self.spare.append(copy)
        return found
