"""``castore ls`` and ``castore du``."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence

import click

from castore.cli.fields import (
    ENTRY_FIELDS,
    TABLE_FIELDS,
    Field,
    Record,
    entry_record,
    print_entries,
    print_records,
    print_tables,
    record_json,
    table_record,
)
from castore.cli.output import print_json, print_lines
from castore.cli.quantities import size
from castore.cli.selection import Condition, Order, read_condition, read_order, select
from castore.cli.shared import entries_of, existing, json_option, note, store_option

__all__ = ["du", "ls"]


@click.command(short_help="List tables, or a table's entries.")
@click.argument("table", required=False)
@store_option
@click.option(
    "--filter",
    "conditions",
    multiple=True,
    metavar="CONDITION",
    help="Only what fulfils it; repeat it for more. Quote it: > is the shell's.",
)
@click.option("--sort", metavar="FIELD[:desc]", help="Order by a field. By default newest first.")
@click.option("--limit", type=click.IntRange(min=0), metavar="N", help="At most N of them.")
@click.option("-q", "--quiet", is_flag=True, help="Print ids only, whole, one a line.")
@json_option
def ls(
    *,
    table: str | None,
    url: str | None,
    conditions: tuple[str, ...],
    sort: str | None,
    limit: int | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """List the tables of a store, or the entries of TABLE.

    A table is all that one function computed with one model and one set of parameters; an
    entry is one result. TABLE is a suffix, or the first digits of a table id.

    Conditions compare a field with a value: 'size>1GB', 'rows>=100', 'age<7d' (units s, m, h,
    d, w), and text by pattern: 'suffix=inception*', 'model!=0f3a*'.

    \b
    Examples:
      castore ls --sort size:desc --limit 10
      castore ls inception_v3 --filter 'rows>=5000' --json
    """  # noqa: D301  \b keeps the lines of the example
    if quiet and as_json:
        msg = "--quiet and --json exclude each other"
        raise click.UsageError(msg)
    fields = ENTRY_FIELDS if table is not None else TABLE_FIELDS
    wanted, order = _conditions(conditions, fields), _order(sort, fields)
    records = select(_records(url, table), wanted, order, limit)
    if as_json:
        print_json([record_json(record) for record in records])
    elif quiet:
        for record in records:
            click.echo(record["table" if table is None else "key"])
    elif not records:
        note("nothing to list")
    elif table is None:
        print_tables(records)
    else:
        print_entries(records)


def _conditions(texts: Sequence[str], fields: Mapping[str, Field]) -> list[Condition]:
    try:
        return [read_condition(text, fields) for text in texts]
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--filter") from error


def _order(text: str | None, fields: Mapping[str, Field]) -> Order | None:
    try:
        return None if text is None else read_order(text, fields)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--sort") from error


def _records(url: str | None, table: str | None) -> list[Record]:
    """Return all tables, or the entries of one, newest first."""
    store = existing(url)
    now = time.time()
    if table is None:
        return [table_record(info, now) for info in store.tables()]
    found = sorted(entries_of(store, table), key=lambda info: info.created, reverse=True)
    return [entry_record(info, now) for info in found]


@click.command(short_help="Show what a store takes.")
@store_option
@json_option
def du(url: str | None, as_json: bool) -> None:
    """Show how many bytes a store takes, and for what.

    Entries share equal blobs, so what they hold together (logical) may be more than what lies
    in the store (physical). By table, the size is the logical one.

    \b
    Example:
      castore du --store /mnt/flash/castore
    """  # noqa: D301  \b keeps the lines of the example
    store = existing(url)
    usage, now = store.usage(), time.time()
    tables = [table_record(info, now) for info in store.tables()]
    tables.sort(key=lambda record: record["size"], reverse=True)
    if as_json:
        total = {**dataclasses.asdict(usage), "physical": usage.physical}
        print_json({**total, "tables": [record_json(record) for record in tables]})
        return
    print_lines(
        ((name, size(getattr(usage, name)), meaning) for name, meaning in _MEANINGS.items()),
        right=[1],
    )
    if tables:
        click.echo()
        print_records(tables, ("suffix", "table", "entries", "rows", "size"), TABLE_FIELDS)


_MEANINGS = {
    "logical": "what all entries hold, as if nothing were shared",
    "referenced": "blobs that entries name, each once",
    "unreferenced": "blobs that no entry names; they go with the next collection",
    "documents": "manifests and other documents",
    "physical": "all that lies in the store",
}
