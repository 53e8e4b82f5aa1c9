"""``castore info`` and ``castore rm``."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence

import click

from castore import catalog
from castore.catalog import EntryInfo
from castore.cli.describe import describe, describe_json
from castore.cli.fields import Record, entry_record, print_entries, record_json
from castore.cli.output import print_json, print_lines
from castore.cli.quantities import named, size
from castore.cli.shared import (
    FailedError,
    entries_of,
    existing,
    json_option,
    not_empty,
    note,
    store_option,
)
from castore.errors import NotFoundError
from castore.store import Store

__all__ = ["info", "rm"]


@click.command(short_help="Tell all about an entry.")
@click.argument("key", callback=not_empty)
@store_option
@json_option
def info(key: str, url: str | None, as_json: bool) -> None:
    """Tell all about the entry whose key begins with KEY.

    What its key is made of (change any of it and the result is computed again), what was only
    recorded, what the key leaves out, and where its bytes lie.

    \b
    Example:
      castore info 1f224e44
    """  # noqa: D301  \b keeps the lines of the example
    entry = existing(url).entry(key.lower())
    if as_json:
        print_json(describe_json(entry))
        return
    for title, lines in describe(entry, time.time()):
        print_lines(lines, title)


@click.command(short_help="Delete entries.")
@click.argument("keys", nargs=-1, metavar="[KEY]...", callback=not_empty)
@click.option(
    "--table",
    "tables",
    multiple=True,
    metavar="TABLE",
    callback=not_empty,
    help="All entries of a table: its suffix, or the first digits of its id.",
)
@store_option
@click.option("-n", "--dry-run", is_flag=True, help="Only show what would be deleted.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask. Needed where nobody can answer.")
@json_option
def rm(
    *,
    keys: tuple[str, ...],
    tables: tuple[str, ...],
    url: str | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Delete the entries whose keys begin with KEY.

    An entry is gone at once; its blobs go with the next collection, so that readers under way
    keep what they have. Nothing is deleted if one of the names is unknown or ambiguous.

    \b
    Examples:
      castore rm 1f224e44 --dry-run
      castore rm --table inception_v3 --yes
    """  # noqa: D301  \b keeps the lines of the example
    if not keys and not tables:
        msg = "name the entries by KEY, or by --table"
        raise click.UsageError(msg)
    if not (dry_run or yes or sys.stdin.isatty()):
        msg = "nobody can answer here: say --yes to delete, or --dry-run to look"
        raise click.UsageError(msg)
    store = existing(url)
    chosen = _chosen(store, keys, tables)
    asked = not (dry_run or yes)
    if asked:
        if not as_json:
            _print(chosen)
        if not click.confirm(f"Delete {_total(chosen)}?", err=True):
            msg = "nothing was deleted"
            raise FailedError(msg)
    gone = chosen if dry_run else _delete(store, chosen)
    if as_json:
        listed = [record_json(record) for record in _records(gone)]
        print_json({"dry_run": dry_run, "entries": listed})
    elif not asked:
        _print(gone)
    verb = "would delete" if dry_run else "deleted"
    note(f"{verb} {_total(gone)}; blobs go with the next collection")


def _chosen(store: Store, keys: Sequence[str], tables: Sequence[str]) -> list[EntryInfo]:
    """Return the entries named, each once."""
    found = [catalog.entry_info(store.entry(key.lower())) for key in keys]
    for table in tables:
        entries = entries_of(store, table)
        if len(ids := sorted({entry.table for entry in entries})) > 1:
            msg = f"{len(ids)} tables have the suffix {table!r}; name them by id: {', '.join(ids)}"
            raise FailedError(msg)
        found += entries
    return list({entry.key: entry for entry in found}.values())


def _delete(store: Store, chosen: Sequence[EntryInfo]) -> list[EntryInfo]:
    """Delete `chosen`; return those that nobody else had deleted meanwhile."""
    gone = []
    for entry in chosen:
        with contextlib.suppress(NotFoundError):
            gone.append(store.delete(entry.key))
    return gone


def _total(entries: Sequence[EntryInfo]) -> str:
    nbytes = sum(entry.nbytes for entry in entries)
    return f"{named(len(entries), 'entry', 'entries')}, {size(nbytes)}"


def _records(entries: Sequence[EntryInfo]) -> list[Record]:
    now = time.time()
    return [entry_record(entry, now) for entry in entries]


def _print(entries: Sequence[EntryInfo]) -> None:
    if entries:
        print_entries(_records(entries))
