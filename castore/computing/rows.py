"""The rows of one request: which of them the store has, and the arrays they are gathered into."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from castore import arrays
from castore.arrays import AnyArray
from castore.canonical import Json, identify
from castore.computing.answers import Hit
from castore.computing.lookup import Finder
from castore.errors import DamagedError
from castore.identity.datasets.samples import Indices
from castore.identity.request import Request
from castore.identity.rows import RowIds, among, distinct
from castore.table.entry import Entry, Schema
from castore.table.gather import allocate, gather, scatter
from castore.table.index import Indexed, Kin
from castore.table.result import Result
from castore.table.tree import assemble

__all__ = ["Lent", "OtherShape", "Rows"]

_log = logging.getLogger("castore")


class OtherShape(Exception):  # noqa: N818  internal: then the request is computed whole
    """Rows of one table have another form, dtype or shape than others; the text says which."""


@dataclass(frozen=True)
class Lent:
    """Rows of a request that somebody has.

    Attributes
    ----------
    rows : int
        How many rows he has in all.
    positions : ndarray
        int64 (k,), where they are among those.
    places : ndarray
        int64 (k,), where they go in the request.
    """

    rows: int
    positions: Indices
    places: Indices


class Rows:
    """The rows of `request`, as they come together.

    Parameters
    ----------
    finder : Finder
        Reads entries.
    request : Request
        Whose row ids are known.
    kin : Kin
        Which entries may lend it rows.
    """

    def __init__(self, finder: Finder, request: Request, kin: Kin) -> None:
        assert request.row_ids is not None
        self.request = request
        self.ids: RowIds = request.row_ids
        self.schema: Schema | None = None
        self.taken: list[tuple[Entry, Lent]] = []
        self.damaged = 0
        self._finder = finder
        self.kin = kin
        self._index = finder.index(kin)
        self._into: dict[str, AnyArray] = {}
        self._here = np.zeros(len(self.ids), np.bool_)
        self._lenders: Sequence[Indexed] = ()
        self._entries = np.full(len(self.ids), -1, np.int32)
        self._positions = np.zeros(len(self.ids), np.int64)
        self._distrusted: set[str] = set()

    def refresh(self, *, square: bool = True) -> None:
        """Look again which rows the store has.

        Parameters
        ----------
        square : bool
            Whether an entry may lend rows whose columns have a second axis as long as it has
            rows, as a matrix of distances has.
        """
        self._index.refresh()
        found = self._index.look_up(self.ids, square=square)
        self._entries, self._positions = found.entry, found.position
        self._lenders = found.entries
        for number, listed in enumerate(self._lenders):
            if listed.key in self._distrusted:
                self._entries[self._entries == number] = -1

    def known(self) -> NDArray[np.bool_]:
        """Tell of each row whether it is here, or the store has it; bool (n,)."""
        return self._here | (self._entries >= 0)

    def missing(self, others: RowIds | None = None) -> Indices:
        """Return positions of rows that must still be computed, each different row once.

        Parameters
        ----------
        others : ndarray, optional
            uint8 (m, 16): rows that somebody else is computing.
        """
        positions = np.flatnonzero(~self.known())
        if others is not None and len(others) and len(positions):
            positions = positions[~among(self.ids[positions], others)]
        return positions[distinct(self.ids[positions])[0]]

    def expect(self) -> None:
        """See, before others are computed, that rows the store has may stand beside them.

        Raises
        ------
        OtherShape
            If those here have another form, dtype or shape.
        CodeChangedError
            If other code computed them, and that is to be raised.
        """
        for key, _ in self.lenders():
            with contextlib.suppress(DamagedError):  # told when they are gathered
                self._fit(self._open(key).schema)

    def gather(self) -> None:
        """Copy here what the store has and is not here yet, every byte checked.

        An entry that is damaged or gone is looked for once more; then its rows are missing.

        Raises
        ------
        OtherShape
            If the rows here have another form, dtype or shape.
        """
        failed = self._gather()
        if failed:
            self._finder.forget()
            self.refresh()
            failed = self._gather()
        for key, (places, error) in failed.items():
            _log.warning("%s: %s; computing its rows again", self.request.function.name, error)
            self.damaged += len(places)
            self._distrusted.add(key)

    def _gather(self) -> dict[str, tuple[Indices, DamagedError]]:
        """Copy what is not here yet; return what failed, by key of the entry."""
        if not (~self._here & (self._entries >= 0)).any():
            return {}
        self._fit(self._lenders[0].schema)
        failed = {}
        for key, places in self.lenders():
            try:
                self._take(self._open(key), places)
            except DamagedError as error:
                self._entries[places] = -1
                failed[key] = places, error
        return failed

    def lenders(self) -> Iterator[tuple[str, Indices]]:
        """Yield the key of each entry that has rows which are not here, and where they go."""
        wanted = np.flatnonzero(~self._here & (self._entries >= 0))
        ordered = wanted[np.argsort(self._entries[wanted], kind="stable")]
        numbers, starts = np.unique(self._entries[ordered], return_index=True)
        for number, places in zip(numbers.tolist(), np.split(ordered, starts[1:]), strict=False):
            yield self._lenders[number].key, places

    def _open(self, key: str) -> Entry:
        entry = self._finder.entry_at(self.request.function.table, key)
        if entry is None or not self._finder.is_current(entry, self.request):
            msg = f"entry {key} was removed or replaced"
            raise DamagedError(msg)
        return entry

    def _take(self, entry: Entry, places: Indices) -> None:
        positions = self._positions[places]
        gather(entry, positions, self.ids[places], self._into, places)
        self._here[places] = True
        self.taken.append((entry, Lent(entry.manifest.rows or 0, positions, places)))

    def lent_by(self, row_ids: RowIds) -> Lent:
        """Return which rows of the request somebody has who has those named."""
        _, number = distinct(np.concatenate([row_ids, self.ids]))
        first = np.full(len(self.ids) + len(row_ids), -1, np.int64)
        first[number[: len(row_ids)][::-1]] = np.arange(len(row_ids))[::-1]
        positions = first[number[len(row_ids) :]]
        places = np.flatnonzero(positions >= 0)
        return Lent(len(row_ids), positions[places], places)

    def copy_of(self, positions: Indices) -> dict[str, AnyArray]:
        """Return the rows at `positions`, which are here, by column."""
        return {name: column[positions] for name, column in self._into.items()}

    def fill(self, positions: Indices, form: Json, columns: Mapping[str, AnyArray]) -> None:
        """Take in rows that were computed, for every place that asks for one of them.

        Parameters
        ----------
        positions : ndarray
            int64 (k,), different rows.
        form : Json
            How the result is put together.
        columns : mapping
            Arrays of k rows.

        Raises
        ------
        OtherShape
            If the rows here have another form, dtype or shape.
        """
        found = {name: (arrays.name_of(a.dtype), a.shape[1:]) for name, a in columns.items()}
        self._fit(Schema(form, found))
        asked = np.flatnonzero(~self.known())
        _, number = distinct(np.concatenate([self.ids[positions], self.ids[asked]]))
        row_of = number[len(positions) :]
        own = row_of < len(positions)
        scatter(columns, row_of[own], self._into, asked[own])
        self._here[asked[own]] = True

    @property
    def scope(self) -> str:
        """Name of those who may want the same rows: store, table, and what must agree."""
        return identify("scope", [self._finder.backend.url, self.kin.table, self.kin.name])

    def hit(self, leaf: Callable[[AnyArray], Any]) -> Hit:
        """Return what is asked for, of which nothing had to be computed."""
        nbytes = sum(column.nbytes for column in self._into.values())
        return Hit(self.value(leaf), nbytes, self.saved_ns(), self.reused)

    @property
    def reused(self) -> int:
        """Rows gathered from the store."""
        return sum(len(lent.places) for _, lent in self.taken)

    def saved_ns(self) -> int:
        """Return how long what was gathered had been computed, in nanoseconds."""
        shares = (
            entry.manifest.compute_ns * len(lent.places) // max(1, lent.rows)
            for entry, lent in self.taken
        )
        return sum(shares)

    def value(self, leaf: Callable[[AnyArray], Any]) -> Any:
        """Put the result together; all rows are here."""
        assert self.schema is not None and self._here.all()  # noqa: PT018
        return assemble(self.schema.form, self._into, leaf)

    def result(self) -> Result:
        """Return the result as a function would have returned it; all rows are here."""
        assert self.schema is not None
        return Result(self.schema.form, self._into)

    def _fit(self, schema: Schema) -> None:
        if self.schema is None:
            self.schema = schema
            self._into = allocate(schema, len(self.ids), self._finder.backend.room)
        elif schema != self.schema:
            msg = f"rows of one table are {self.schema} here and {schema} there"
            raise OtherShape(msg)
