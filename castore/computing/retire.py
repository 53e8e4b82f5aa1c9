"""What gives way when rows were computed anew on purpose.

Other entries hold older values of the same rows. Each is published again without them, and then
retired: whatever fails before that leaves the old value in place.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from castore import catalog
from castore.backend.base import Backend
from castore.canonical import identify
from castore.errors import DamagedError
from castore.identity.request import Request
from castore.identity.rows import RowIds, among, digest_rows
from castore.table.adoption import orphans
from castore.table.entry import Entry
from castore.table.gather import allocate, gather
from castore.table.index import Kin
from castore.table.manifest import put_together
from castore.table.result import Result
from castore.table.writer import Writer

__all__ = ["retire_others"]

_log = logging.getLogger("castore")


def retire_others(backend: Backend, writer: Writer, request: Request, kin: Kin) -> int:
    """Retire what other entries hold of the rows of `request`; return how many held some.

    Parameters
    ----------
    backend : Backend
        The store.
    writer : Writer
        Of the request's table.
    request : Request
        Whose entry was just published.
    kin : Kin
        The entries that would lend it rows.
    """
    assert request.row_ids is not None
    for orphan in orphans(backend, kin.table):  # adopted later, it would be the newest
        orphan.discard()
    retired = 0
    newer = [request.row_ids]
    for entry, row_ids in _others(backend, request, kin):
        if among(row_ids, newer[0]).any():
            kept = ~among(row_ids, np.concatenate(newer))
            if kept.any():
                _publish_without(entry, row_ids, kept, writer)
            backend.delete([entry.manifest.name])
            _log.info("entry %s gave way to %s", entry.key[:8], request.key[:8])
            retired += 1
        newer.append(row_ids)
    return retired


def _others(backend: Backend, request: Request, kin: Kin) -> Iterator[tuple[Entry, RowIds]]:
    """Yield the other entries that may lend rows, with their row ids, newest first.

    What is left of one is published anew, so it must not hold what a newer one holds too.
    """
    entries = [entry for entry in catalog.scan(backend, kin.table) if kin.accepts(entry.manifest)]
    for entry in sorted(entries, key=lambda e: (catalog.created(e), e.key), reverse=True):
        try:
            row_ids = entry.row_ids()
        except DamagedError:  # nobody is served from it
            continue
        if row_ids is not None and entry.key != request.key:
            yield entry, row_ids


def _publish_without(
    entry: Entry, row_ids: RowIds, kept: NDArray[np.bool_], writer: Writer
) -> None:
    positions = np.flatnonzero(kept)
    left = row_ids[positions]
    into = allocate(entry.schema, len(positions), writer.backend.room)
    try:
        gather(entry, positions, left, into, np.arange(len(positions)))
    except DamagedError:  # then there is nothing to keep
        return
    manifest = entry.manifest
    derivation = {**manifest.derivation["entry"], "rows": [len(left), digest_rows(left)]}
    header = {
        "table": manifest.table,
        "key": identify("key", derivation),
        "rows": len(left),
        "aligned": True,
        "form": manifest.form,
        "derivation": put_together({**manifest.derivation, "entry": derivation}),
        "origin": {
            **manifest.origin,
            "compute_ns": manifest.compute_ns * len(left) // len(row_ids),
        },
    }
    codecs = {name: column.codec for name, column in entry.columns.items()}
    draft = Result(manifest.form, into).draft(writer.algorithm, left, codecs)
    writer.publish(draft, header, force=True)  # of these rows there is nothing newer
