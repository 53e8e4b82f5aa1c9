"""``castore explain``."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

import click

from castore.canonical import Json
from castore.cli.fields import ENTRY_FIELDS, entry_record, print_records, record_json
from castore.cli.output import Column, print_json, print_lines, print_table, shortened
from castore.cli.shared import FailedError, entries_of, existing, json_option, note, store_option
from castore.explain import Comparison, Difference, compare_entries
from castore.store import Store
from castore.table.entry import Entry

__all__ = ["explain"]

_TOLD = ("key", "suffix", "table", "rows", "size", "seconds", "created", "age")


@click.command(short_help="Tell in what an entry differs from the one most like it.")
@click.argument("key", required=False)
@click.argument("other", required=False)
@click.option(
    "--table",
    metavar="TABLE",
    help="Without KEY: the newest entry of a table, its suffix or the first digits of its id.",
)
@store_option
@json_option
def explain(
    *, key: str | None, other: str | None, table: str | None, url: str | None, as_json: bool
) -> None:
    """Tell in what the entry whose key begins with KEY differs from the one most like it.

    Why was it computed, and not found? Without KEY that is asked of the newest entry. With OTHER,
    the two are compared. What is keyed comes first, then what was only recorded. What a loader
    would get, and why, tells store.explain(loader, fn, ...) in Python.

    \b
    Examples:
      castore explain
      castore explain --table inception_v3
      castore explain 1f224e44 8c1d22aa
    """  # noqa: D301  \b keeps the lines of the examples
    if key is not None and table is not None:
        msg = "name the entry by KEY, or take the newest of a --table"
        raise click.UsageError(msg)
    if "" in (key, other, table):
        msg = "a name is empty; `castore ls` shows tables and keys"
        raise click.UsageError(msg)
    store = existing(url)
    entry = _newest(store, table) if key is None else store.entry(key.lower())
    beside = None if other is None else store.entry(other.lower())
    if beside is not None and beside.key == entry.key:
        msg = f"KEY and OTHER both name the entry {entry.key}"
        raise FailedError(msg)
    found = compare_entries(entry) if beside is None else compare_entries(beside, entry)
    if as_json:
        print_json(_document(found))
    else:
        _print(found)


def _newest(store: Store, table: str | None) -> Entry:
    entries = store.entries() if table is None else entries_of(store, table)
    newest = max(entries, key=lambda info: info.created, default=None)
    if newest is None:
        msg = f"{store.url} has no entries"
        raise FailedError(msg)
    return store.entry(newest.key)


def _document(found: Comparison) -> dict[str, Json]:
    """Return all of it for programs: documents as they are stored."""
    return {
        "before": found.before and record_json(entry_record(found.before, 0)),
        "after": record_json(entry_record(found.after, 0)),
        "differences": [dataclasses.asdict(one) for one in found.differences],
        "recorded": [dataclasses.asdict(one) for one in found.recorded],
        "advice": found.advice,
    }


def _print(found: Comparison) -> None:
    infos = [info for info in (found.before, found.after) if info is not None]
    now = time.time()
    print_records([entry_record(info, now) for info in infos], _TOLD, ENTRY_FIELDS)
    if found.before is None:
        note("nothing like it was found")
    keys = shortened([info.key for info in infos])
    for title, differences in (("keyed", found.differences), ("recorded", found.recorded)):
        if differences:
            click.echo()
            _print_differences(title, keys, differences)
    if found.advice:
        print_lines([(line,) for line in found.advice], "advice")


def _print_differences(title: str, keys: Sequence[str], differences: Sequence[Difference]) -> None:
    rows = [(one.path, *one.texts, one.note) for one in differences]
    columns = [Column(title), *(Column(key, cut=True) for key in keys), Column("", cut=True)]
    width = len(columns) if any(one.note for one in differences) else len(columns) - 1
    print_table(columns[:width], [row[:width] for row in rows])
