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
from dataclasses import replace
from types import TracebackType
from typing import NamedTuple, Self

from castore import arrays
from castore.backend.base import Backend
from castore.canonical import Json
from castore.errors import CommitError, StoreError
from castore.identity.rows import RowIds
from castore.once.owner import Owner
from castore.table.adoption import orphans
from castore.table.draft import RowStream
from castore.table.segment import Segment, Written

__all__ = ["SEAL_SECONDS", "Sealing"]

#: Rows are sealed when so many seconds have passed since the last time. It is work that a kill
#: loses, so it is counted in time, not in bytes: a seal takes up to 4 ms while the disk is busy.
SEAL_SECONDS = 1.0

_log = logging.getLogger("castore")


class _Moment(NamedTuple):
    """How far the columns were after a batch."""

    form: Json
    streams: Mapping[str, RowStream]
    rows: int

    def columns(self) -> tuple[Written, ...] | None:
        """Return where the rows are; None where that cannot be said, or more came in part."""
        found = []
        for name, stream in self.streams.items():
            file, checks, column = stream.temporary, stream.parts_so_far(), stream.column(name)
            if file is None or checks is None or stream.rows != self.rows:
                return None
            found.append(Written(column, file, checks))
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
        self._moment = _Moment(form, streams, rows)
        if time.monotonic() - self._sealed_at >= SEAL_SECONDS:
            segment = self._segment()
            if segment is None:  # the stream goes on elsewhere
                self._give_up()
            else:
                self._seal(segment)

    def close(self) -> None:
        """Seal what is whole; let anybody have it from now on."""
        segment = None if self._over else self._segment() or self._sealed
        if segment is not None:
            self._seal(replace(segment, closed=True))
        self._over = True

    def discard(self) -> None:
        """Leave nothing of it, unless it was closed."""
        if not self._over:
            self._give_up()
        if self._sealed is not None and not self._sealed.closed:
            with contextlib.suppress(StoreError):
                self._backend.delete(self._sealed.files)

    def _segment(self) -> Segment | None:
        """Describe the rows so far; None where that cannot be."""
        columns = self._moment.columns() if self._moment is not None else None
        if self._moment is None or columns is None:
            return None
        return Segment(
            table=self._table,
            key=self._key,
            nonce=self._nonce,
            owner=Owner.here(),
            closed=False,
            rows=self._moment.rows,
            form=self._moment.form,
            columns=columns,
            compute_ns=time.perf_counter_ns() - self._begun,
            derivation=self._derivation(),
        )

    def _seal(self, segment: Segment) -> None:
        """Write what `segment` says, unless it says nothing."""
        if not segment.rows:
            return
        try:
            self._write(segment)
        except StoreError as error:
            _log.debug("rows are not sealed: %s", error)
            self._give_up()

    def _write(self, segment: Segment) -> None:
        document, row_ids = segment.names
        if self._sealed is None or self._backend.stat(row_ids) is None:
            self._backend.put(row_ids, [arrays.raw(self._row_ids)], durable=False)
        self._backend.put(document, [segment.to_bytes()], durable=False)
        if self._moment is not None:
            for stream in self._moment.streams.values():
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
