"""Taking over rows of streams whose processes did not live to publish them.

Rows that are as they were sealed (`castore.table.segment`) are copied into an entry of their own,
keyed by them as the rows of a partial hit are; what was copied is checked, not its source. Then
the segment is removed. Nobody needs to agree with anybody: all who do so at once publish the same.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from castore.arrays import AnyArray
from castore.backend.base import Backend
from castore.blobs import layout
from castore.canonical import Json, identify
from castore.errors import DamagedError, StoreError
from castore.identity.rows import RowIds, digest_rows
from castore.once.owner import Owner
from castore.table.entry import Entry
from castore.table.index import Kin
from castore.table.keymap import KeyMap
from castore.table.manifest import Manifest, put_together
from castore.table.result import Result
from castore.table.segment import Segment
from castore.table.writer import Writer, origin

__all__ = ["UNTOUCHED", "Orphan", "Rescued", "adopt", "orphans"]

#: Seconds without a sign of life after which a writer of whom nothing is certain counts as gone.
UNTOUCHED = 3600.0

_log = logging.getLogger("castore")


@dataclass(frozen=True)
class Orphan:
    """A segment whose writer is gone.

    Attributes
    ----------
    segment : Segment
        What it sealed.
    backend : Backend
        Where.
    certain : bool
        Whether the writer is certainly gone, so that its files may be removed.
    """

    segment: Segment
    backend: Backend
    certain: bool

    def rescue(self) -> Rescued | None:
        """Find the rows that are as they were sealed; None if not even the first is."""
        row_ids = self._row_ids()
        if row_ids is None:
            return None
        data = {}
        for written in self.segment.columns:
            info = self.backend.stat(written.file)
            found = self.backend.open_private(written.file, info.size) if info else None
            if found is None:
                return None
            data[written.column.name] = found[: written.column.nbytes]
        rows = min(w.intact(data[w.column.name]) for w in self.segment.columns)
        return Rescued(self.segment, row_ids[:rows], data) if rows else None

    def discard(self) -> None:
        """Remove it; of a writer who may live after all, only what it says of itself."""
        self.backend.delete(self.segment.names, durable=False)
        if self.certain:
            self.backend.delete(self.segment.files)

    def _row_ids(self) -> RowIds | None:
        count, digest = self.segment.derivation["entry"]["rows"]
        data = self.backend.get(self.segment.names[1])
        if data is None or len(data) != 16 * count:
            return None
        row_ids = np.frombuffer(data, np.uint8).reshape(-1, 16)
        return row_ids if digest_rows(row_ids) == digest else None


@dataclass(frozen=True)
class Rescued:
    """Rows of a segment that were seen to be as they were sealed.

    Attributes
    ----------
    segment : Segment
        Where from.
    row_ids : ndarray
        uint8 (n, 16), what they are.
    data : mapping
        What begins each column's file, at least n rows.
    """

    segment: Segment
    row_ids: RowIds
    data: Mapping[str, NDArray[np.uint8]]

    @property
    def manifest(self) -> Manifest:
        """What the manifest of the rows will say; it names no chunks."""
        return Manifest(**self._header(), nonce="", algorithm="", keys=KeyMap())

    def take(self, positions: NDArray[np.int64]) -> dict[str, AnyArray]:
        """Return a copy of the rows at `positions`, by column."""
        found = {}
        for written in self.segment.columns:
            column = replace(written.column, shape=(len(self.row_ids), *written.column.shape[1:]))
            found[column.name] = column.view(self.data[column.name])[positions]
        return found

    def publish(self, backend: Backend, writer: Writer) -> Entry:
        """Publish them as an entry keyed by them; any number of processes may, at once.

        Raises
        ------
        DamagedError
            If a row changed while it was copied.
        StoreError
            If they cannot be published.
        """
        with contextlib.ExitStack() as uploads:
            streams = {}
            for written in self.segment.columns:
                upload = uploads.enter_context(backend.upload())
                data = self.data[written.column.name]
                stream = written.copy(data, len(self.row_ids), upload, writer.algorithm)
                stream.finish()
                streams[written.column.name] = stream
            draft = Result(self.segment.form, {}, streams).draft(writer.algorithm, self.row_ids)
            return writer.publish(draft, self._header()).entry

    def _header(self) -> dict[str, Any]:
        segment, rows = self.segment, len(self.row_ids)
        entry = {**segment.derivation["entry"], "rows": [rows, digest_rows(self.row_ids)]}
        return {
            "table": segment.table,
            "key": identify("key", entry),
            "rows": rows,
            "aligned": True,
            "form": segment.form,
            "derivation": put_together({**segment.derivation, "entry": entry}),
            "origin": origin(segment.compute_ns * rows // segment.rows),
        }


def orphans(backend: Backend, table: str) -> Iterator[Orphan]:
    """Yield the segments of `table` whose writers are gone; never that of one who may live.

    A writer is gone if its process is, if it closed the segment, or, where neither can be
    known, as on a machine that was started again, if it was not heard of for an hour. Damaged
    documents are passed over.
    """
    if not backend.near:
        return
    for info in backend.list(layout.segments(table)):
        named = layout.segment_of(info.name)
        data = backend.get(info.name) if named else None
        if named is None or data is None:
            continue
        try:
            segment = Segment.from_bytes(data, *named)
        except DamagedError as error:
            _log.debug("%s", error)
            continue
        certain = segment.closed or segment.owner.is_gone()
        if certain or (not _is_seen(segment.owner) and _is_untouched(backend, segment)):
            yield Orphan(segment, backend, certain)


def _is_seen(owner: Owner) -> bool:
    """Tell whether this process would know if `owner` were gone."""
    here = Owner.here()
    same = (owner.boot, owner.namespace) == (here.boot, here.namespace)
    return same and owner.start is not None and here.start is not None


def _is_untouched(backend: Backend, segment: Segment) -> bool:
    seen = [backend.stat(name) for name in (*segment.names, *segment.files)]
    newest = max((info.modified for info in seen if info is not None), default=0.0)
    return backend.now() - newest > UNTOUCHED


def adopt(
    backend: Backend,
    writer: Writer,
    kin: Kin,
    functions: Json,
    vouch: Callable[[Rescued], bool] = lambda _: True,
) -> list[Entry]:
    """Publish what processes that are gone had sealed of rows that `kin` may lend.

    Trouble with one segment is logged, and it is left for later.

    Parameters
    ----------
    backend : Backend
        The store.
    writer : Writer
        Of the table.
    kin : Kin
        Which entries may lend rows; asked about the entries to be.
    functions : Json
        The code that must have computed them, as derivations record it.
    vouch : callable
        Told what would be published; False leaves it for later.
    """
    entries = []
    for orphan in orphans(backend, kin.table):
        if orphan.segment.derivation.get("recorded", {}).get("functions") != functions:
            continue
        try:
            rescued = orphan.rescue()
            if rescued is not None:
                if not kin.accepts(rescued.manifest) or not vouch(rescued):
                    continue
                entries.append(rescued.publish(backend, writer))
                _log.info("%d rows of an interrupted stream taken over", len(rescued.row_ids))
            orphan.discard()
        except StoreError as error:
            _log.warning("rows of an interrupted stream are not taken over: %s", error)
    return entries
