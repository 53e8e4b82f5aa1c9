"""All there is to say about one entry: for people in sections, for programs as it is stored."""

from __future__ import annotations

from collections.abc import Iterator

from castore import catalog
from castore.blobs.blob import BlobRef
from castore.canonical import Json
from castore.catalog import EntryInfo
from castore.cli.derivation import Lines, sections
from castore.cli.fields import entry_record, record_json
from castore.cli.quantities import age, count, local_time, seconds, size
from castore.table.entry import Entry

__all__ = ["describe", "describe_json"]


def describe(entry: Entry, now: float) -> Iterator[tuple[str, Lines]]:
    """Yield sections: a title, and lines of cells."""
    info = catalog.entry_info(entry)
    yield "", _summary(info, now)
    yield (
        "columns",
        [(name, info.columns[name], size(column.nbytes)) for name, column in entry.columns.items()],
    )
    yield from sections(info.derivation)
    yield "stored", _stored(entry)


def describe_json(entry: Entry) -> dict[str, Json]:
    """Return all of it as it is stored."""
    info = catalog.entry_info(entry)
    return {
        **record_json(entry_record(info, 0)),
        "model": info.model,
        "version": info.version,
        "derivation": info.derivation,
        "origin": info.origin,
        "digest_algorithm": entry.manifest.algorithm,
        "stored": {
            name: {"blob": chunk.name, "size": chunk.length}
            if isinstance(chunk, BlobRef)
            else {"blob": None, "size": len(chunk)}
            for name, chunk in entry.manifest.chunks.items()
        },
    }


def _summary(info: EntryInfo, now: float) -> Lines:
    origin = info.origin
    return [
        ("key", info.key),
        ("table", info.table),
        ("suffix", info.suffix or "-"),
        ("rows", count(info.rows)),
        ("size", size(info.nbytes)),
        ("computed", f"in {seconds(info.compute_seconds)} s"),
        ("created", f"{local_time(info.created)} ({age(now - info.created)} ago)"),
        ("by", f"{origin.get('writer')}, Python {origin.get('python')}"),
        ("on", f"{origin.get('host')}, {origin.get('system')}"),
    ]


def _stored(entry: Entry) -> Lines:
    return [
        (name, size(chunk.length), chunk.name)
        if isinstance(chunk, BlobRef)
        else (name, size(len(chunk)), "in the manifest")
        for name, chunk in entry.manifest.chunks.items()
    ]
