"""What is told of tables and entries: one set of names to show, filter, sort and print as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from castore.canonical import Json
from castore.catalog import EntryInfo, TableInfo
from castore.cli import quantities
from castore.cli.output import Column, print_table, shortened
from castore.readable import readable

__all__ = [
    "ENTRY_FIELDS",
    "TABLE_FIELDS",
    "Field",
    "Record",
    "entry_record",
    "print_entries",
    "print_records",
    "print_tables",
    "record_json",
    "table_record",
    "text",
]

#: Values by field name: ids whole, sizes in bytes, durations and moments in seconds.
Record: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Field:
    """A kind of thing that is told.

    Attributes
    ----------
    show : callable
        From the value to what people read.
    read : callable or None
        From what people write in a condition to a value; None where they write a pattern.
    measured : bool
        Whether values are numbers: shown to the right, and ordered as numbers.
    """

    show: Callable[[Any], str]
    read: Callable[[str], Any] | None = None
    measured: bool = False


def text(value: Json) -> str:
    """Write a suffix, an id, a version, or the digests of one or more models."""
    if isinstance(value, dict) and len(value) > 1:
        return ", ".join(value.values())
    return "" if value is None else value if isinstance(value, str) else readable(value)


def _columns(value: Mapping[str, str]) -> str:
    return "; ".join(f"{name} {kind}" for name, kind in value.items())


_TEXT = Field(text)
_COUNT = Field(quantities.count, quantities.read_count, measured=True)
_SIZE = Field(quantities.size, quantities.read_size, measured=True)
_SECONDS = Field(quantities.seconds, quantities.read_seconds, measured=True)
_AGE = Field(quantities.age, quantities.read_duration, measured=True)
_DAY = Field(quantities.local_date, measured=True)
_MOMENT = Field(quantities.local_time, measured=True)

TABLE_FIELDS = {
    "suffix": _TEXT,
    "version": _TEXT,
    "table": _TEXT,
    "entries": _COUNT,
    "rows": _COUNT,
    "size": _SIZE,
    "model": _TEXT,
    "newest": _DAY,
    "age": _AGE,
}
ENTRY_FIELDS = {
    "key": _TEXT,
    "suffix": _TEXT,
    "table": _TEXT,
    "rows": _COUNT,
    "columns": Field(_columns),
    "size": _SIZE,
    "seconds": _SECONDS,
    "created": _MOMENT,
    "age": _AGE,
}
#: Made short where people read them, and what gives way where a terminal is narrow.
_IDS = ("key", "model", "table")
_CUT = ("columns", "model", "suffix")


def table_record(info: TableInfo, now: float) -> Record:
    """Return what is told of a table."""
    return {
        "suffix": info.suffix,
        "version": info.version,
        "table": info.table,
        "entries": info.entries,
        "rows": info.rows,
        "size": info.nbytes,
        "model": info.model,
        "newest": info.created,
        "age": now - info.created,
    }


def entry_record(info: EntryInfo, now: float) -> Record:
    """Return what is told of an entry."""
    return {
        "key": info.key,
        "suffix": info.suffix,
        "table": info.table,
        "rows": info.rows,
        "columns": info.columns,
        "size": info.nbytes,
        "seconds": info.compute_seconds,
        "created": info.created,
        "age": now - info.created,
    }


def record_json(record: Record) -> dict[str, Json]:
    """Return a record for programs: moments as RFC 3339, and no age, which is old at once."""
    return {
        name: quantities.rfc3339(value) if name in ("newest", "created") else value
        for name, value in record.items()
        if name != "age"
    }


def print_tables(records: Sequence[Record]) -> None:
    """Print tables, with versions and models where there are any."""
    unused = {n for n in ("version", "model") if all(record[n] is None for record in records)}
    print_records(records, (n for n in TABLE_FIELDS if n not in unused), TABLE_FIELDS)


def print_entries(records: Sequence[Record]) -> None:
    """Print entries, with their suffixes and tables where these differ."""
    same = {n for n in ("suffix", "table") if len({record[n] for record in records}) == 1}
    print_records(records, (n for n in ENTRY_FIELDS if n not in {*same, "age"}), ENTRY_FIELDS)


def print_records(
    records: Sequence[Record], names: Iterable[str], fields: Mapping[str, Field]
) -> None:
    """Print the fields `names` of `records` as a table."""
    columns, cells = [], []
    for name in names:
        shown = [fields[name].show(record[name]) or "-" for record in records]
        cells.append(shortened(shown) if name in _IDS else shown)
        columns.append(Column(name, right=fields[name].measured, cut=name in _CUT))
    print_table(columns, zip(*cells, strict=True))
