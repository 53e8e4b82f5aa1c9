"""Sealing the rows of a stream as they come, so that a killed process need not have lost them.

From time to time a small document says how many rows lie in which temporary file and what their
checks are (`castore.table.segment`). It is replaced in one step and names only rows that were
written before, so it is true whenever the process dies.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from castore import arrays
from castore.backend.base import Backend
from castore.blobs.parts import Mark
from castore.canonical import Json
from castore.errors import CommitError, StoreError
from castore.identity.rows import RowIds
from castore.once.owner import Owner
from castore.table.adoption import orphans
from castore.table.draft import RowStream
from castore.table.segment import Segment, Written

__all__ = ["SEAL_NBYTES", "SEAL_SECONDS", "Sealing"]

#: Rows are sealed when as much was written since the last time, in bytes ...
SEAL_NBYTES = 64 << 20
#: ... or when as many seconds have passed.
SEAL_SECONDS = 5.0

_log = logging.getLogger("castore")


@dataclass(frozen=True)
class _Moment:
    """How far the columns were after a batch."""

    form: Json
    streams: Mapping[str, RowStream]
    rows: int
    marks: dict[str, Mark]

    @classmethod
    def of(cls, form: Json, streams: Mapping[str, RowStream], rows: int) -> _Moment:
        return cls(form, streams, rows, {name: s.mark() for name, s in streams.items()})

    @property
    def nbytes(self) -> int:
        return sum(stream.column("").row_nbytes for stream in self.streams.values()) * self.rows

    def columns(self) -> tuple[Written, ...] | None:
        """Return where the rows are; None where nobody else could find them."""
        found = []
        for name, stream in self.streams.items():
            if stream.temporary is None:
                return None
            column = stream.column(name)
            sealed = replace(column, shape=(self.rows, *column.shape[1:]))
            found.append(Written(sealed, stream.temporary, stream.parts_at(self.marks[name])))
        return tuple(found)


class Sealing:
    """Seals the rows of one stream; a context manager to be entered before the first row comes.

    When the block ends well nothing is left. When the stream was ended by an exception, or its
    rows could not be published, what was sealed is closed and left for whoever wants those rows
    next. Trouble of the store never gets in the way: then there is no segment.

    Parameters
    ----------
    backend : Backend
        The store, a near one; without files that others can find nothing is sealed.
    table, key : str
        Of the entry that the stream is to become.
    row_ids : ndarray
        uint8 (n, 16), of the whole stream.
    derivation : callable
        Returns what the manifest is to say about where the key came from.
    """

    def __init__(
        self, backend: Backend, table: str, key: str, row_ids: RowIds,
        derivation: Callable[[], dict[str, Json]],
    ) -> None:  # fmt: skip
        self._backend = backend
        self._table = table
        self._key = key
        self._row_ids = row_ids
        self._derivation = derivation
        self._nonce = os.urandom(16).hex()
        self._begun = time.perf_counter_ns()
        self._moment: _Moment | None = None
        self._sealed: Segment | None = None
        self._sealed_at = time.monotonic()
        self._over = False

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        """Close what could not be published; in any other case leave nothing."""
        published = error is None
        if not published and self._sealed is not None and _is_outer(error):
            self.close()
        self.discard()
        if published:
            self._discard_superseded()

    def saw(self, form: Json, streams: Mapping[str, RowStream], rows: int) -> None:
        """Take note that the first `rows` rows are whole in every stream; seal them if it is time.

        Parameters
        ----------
        form : Json
            How a result is put together from the columns.
        streams : mapping
            The columns.
        rows : int
            Rows so far.
        """
        if self._over:
            return
        if rows > len(self._row_ids):  # then they are not what the row ids say
            self._give_up()
            return
        self._moment = moment = _Moment.of(form, streams, rows)
        sealed = sum(w.column.nbytes for w in self._sealed.columns) if self._sealed else 0
        if (
            moment.nbytes - sealed >= SEAL_NBYTES
            or time.monotonic() - self._sealed_at >= SEAL_SECONDS
        ):
            self._seal(moment, closed=False)

    def close(self) -> None:
        """Seal the last whole rows; let anybody have them from now on."""
        if not self._over and self._moment is not None:
            self._seal(self._moment, closed=True)
        self._over = True

    def discard(self) -> None:
        """Leave nothing of it, unless it was closed."""
        if not self._over:
            self._give_up()
        if self._sealed is not None and not self._sealed.closed:
            with contextlib.suppress(StoreError):
                self._backend.delete(self._sealed.files)

    def _seal(self, moment: _Moment, *, closed: bool) -> None:
        columns = moment.columns()
        if columns is None:
            self._give_up()
        elif moment.rows:
            try:
                self._write(moment, columns, closed)
            except StoreError as error:
                _log.debug("rows are not sealed: %s", error)
                self._give_up()

    def _write(self, moment: _Moment, columns: tuple[Written, ...], closed: bool) -> None:
        segment = Segment(
            table=self._table,
            key=self._key,
            nonce=self._nonce,
            owner=Owner.here(),
            closed=closed,
            rows=moment.rows,
            form=moment.form,
            columns=columns,
            compute_ns=time.perf_counter_ns() - self._begun,
            derivation=self._derivation(),
        )
        document, row_ids = segment.names
        if self._sealed is None or self._backend.stat(row_ids) is None:
            self._backend.put(row_ids, [arrays.raw(self._row_ids)], durable=False)
        self._backend.put(document, [segment.to_bytes()], durable=False)
        for stream in moment.streams.values():
            stream.keep()  # from here on the files go with the segment
        self._sealed = segment
        self._sealed_at = time.monotonic()

    def _give_up(self) -> None:
        """Seal nothing more, and take back what was; the files may still be published."""
        self._over = True
        if self._sealed is not None:
            with contextlib.suppress(StoreError):
                self._backend.delete(self._sealed.names, durable=False)

    def _discard_superseded(self) -> None:
        """Remove what others left of the same key: now there is all of it."""
        with contextlib.suppress(StoreError):
            for orphan in list(orphans(self._backend, self._table)):
                if orphan.segment.key == self._key:
                    orphan.discard()


def _is_outer(error: BaseException | None) -> bool:
    """Tell whether `error` says nothing against the rows: trouble of the store, or Ctrl-C."""
    return not isinstance(error, Exception) or isinstance(error, StoreError | CommitError)
