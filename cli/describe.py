"""All there is to say about one entry: for people in sections, for programs as it is stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from castore import catalog
from castore.blobs.blob import BlobRef
from castore.canonical import Json
from castore.catalog import EntryInfo
from castore.cli.derivation import Lines, sections
from castore.cli.fields import entry_record, record_json
from castore.cli.quantities import age, count, local_time, named, seconds, size
from castore.table.entry import Entry
from castore.table.keymap import Chunk

__all__ = ["describe", "describe_json"]

#: How the root is called where it is an array, and what holds files that belong to no array.
_ROOT, _OTHERS = "/", "other files"


def describe(entry: Entry, now: float) -> Iterator[tuple[str, Lines]]:
    """Yield sections: a title, and lines of cells."""
    info = catalog.entry_info(entry)
    yield "", _summary(info, now)
    if entry.is_hierarchy:
        held = _held(entry, info)
        yield (
            "arrays",
            [(name, kind, size(_nbytes(held[name]))) for name, kind in info.columns.items()],
        )
        yield from sections(info.derivation)
        yield "stored", _stored_together(entry, held)
        return
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
        ("computed", f"in {seconds(info.compute_seconds)} s" if info.compute_seconds else "-"),
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


def _held(entry: Entry, info: EntryInfo) -> dict[str, list[Chunk]]:
    """Return the chunks of every array of a hierarchy, by its path; and those of none."""
    held: dict[str, list[Chunk]] = {name: [] for name in [*info.columns, _OTHERS]}
    for key, chunk in entry.manifest.chunks.items():
        path = key.rpartition("/")[0]
        while path and path not in info.columns:
            path = path.rpartition("/")[0]
        held[path or (_ROOT if _ROOT in held else _OTHERS)].append(chunk)
    return held


def _nbytes(chunks: Sequence[Chunk]) -> int:
    return sum(chunk.length if isinstance(chunk, BlobRef) else len(chunk) for chunk in chunks)


def _stored_together(entry: Entry, held: Mapping[str, Sequence[Chunk]]) -> Lines:
    """Return a line an array: there may be thousands of chunks."""
    lines: Lines = []
    for name, chunks in held.items():
        if name == _OTHERS and not chunks:
            continue
        blobs = [chunk for chunk in chunks if isinstance(chunk, BlobRef)]
        inside = len(chunks) - len(blobs)
        where = f"in {named(len(set(blobs)), 'blob', 'blobs')}" if blobs else ""
        if inside:
            where = f"{where}, {inside:,} in the manifest" if where else "in the manifest"
        counted = named(len(chunks), "chunk", "chunks")
        lines.append((name, size(_nbytes(chunks)), f"{counted} {where}".rstrip()))
    if (keys := entry.manifest.map) is not None:
        lines.append(("their names", size(keys.length), keys.name))
    return lines
