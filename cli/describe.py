"""All there is to say about one entry: for people in sections, for programs as it is stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

from castore import catalog
from castore.blobs.blob import BlobRef
from castore.canonical import Json
from castore.catalog import EntryInfo
from castore.cli.fields import entry_record, record_json
from castore.cli.quantities import age, count, local_time, seconds, size
from castore.cli.readable import readable
from castore.table.entry import Entry

__all__ = ["describe", "describe_json"]

#: Cells of a line, equally many in all lines of a section.
_Lines: TypeAlias = list[tuple[str, ...]]
#: Parts of a derivation as people look for them; what else there is comes after.
_ORDER = (
    "suffix",
    "version",
    "model",
    "params",
    "captured",
    "functions",
    "inputs",
    "rows",
    "variant",
    "source",
)
#: What a derivation says about its own form, not about the result.
_PLUMBING = {"format", "table"}
#: Parts whose values were the user's and are written as such; others are castore's own words.
_VALUES = ("version", "params", "captured", "inputs")


def describe(entry: Entry, now: float) -> Iterator[tuple[str, _Lines]]:
    """Yield sections: a title, and lines of cells."""
    info = catalog.entry_info(entry)
    derivation = info.derivation
    yield "", _summary(info, now)
    yield (
        "columns",
        [(name, info.columns[name], size(column.nbytes)) for name, column in entry.columns.items()],
    )
    keyed = {**derivation.get("table", {}), **derivation.get("entry", {})}
    sources = derivation.get("sources", [])
    keyed["source"] = sources[0] if len(sources) == 1 else sources
    yield "in the key: another value is another entry", list(_keyed(keyed))
    if recorded := list(_recorded(derivation.get("recorded", {}))):
        yield "recorded, not in the key", recorded
    if not_keyed := derivation.get("not_keyed"):
        yield "used, but not in the key", list(not_keyed.items())
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


def _summary(info: EntryInfo, now: float) -> _Lines:
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


def _keyed(document: Mapping[str, Json]) -> Iterator[tuple[str, ...]]:
    """Yield what the key is the digest of, a name a line; what is not set is left out."""
    order = {name: rank for rank, name in enumerate(_ORDER)}
    for name in sorted(document.keys() - _PLUMBING, key=lambda n: (order.get(n, len(order)), n)):
        value = document[name]
        write = readable if name in _VALUES else _plain
        if name == "rows":
            yield name, f"{count(value[0])}, digest {value[1]}"
        elif isinstance(value, dict) and name != "version":
            for part, item in value["dict"] if name == "params" else value.items():
                if item is not None or name in _VALUES:
                    yield part if name == "captured" else f"{name}.{part}", write(item)
        elif value not in (None, "", []):
            yield name, write(value)


def _plain(document: Json) -> str:
    return document if isinstance(document, str) else readable(document)


def _recorded(document: Mapping[str, Json]) -> Iterator[tuple[str, ...]]:
    for path, digest in document.get("functions", {}).items():
        yield f"code of {path}", digest
    for path in document.get("models", []):
        yield "model found at", path
    for name, value in document.items():
        if name not in ("functions", "models"):
            yield name, readable(value)


def _stored(entry: Entry) -> _Lines:
    return [
        (name, size(chunk.length), chunk.name)
        if isinstance(chunk, BlobRef)
        else (name, size(len(chunk)), "in the manifest")
        for name, chunk in entry.manifest.chunks.items()
    ]
