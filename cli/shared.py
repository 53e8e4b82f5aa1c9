"""What every command shares: options, exit codes, and the store it works on."""

from __future__ import annotations

import shlex
from typing import IO, Any

import click

import castore
from castore.catalog import EntryInfo
from castore.errors import NotFoundError
from castore.store import Store

__all__ = [
    "INTERRUPTED",
    "FailedError",
    "NoStoreError",
    "digest_of",
    "entries_of",
    "existing",
    "json_option",
    "not_empty",
    "note",
    "store_option",
]

#: Exit code after Ctrl-C, as shells have it: 128 + SIGINT.
INTERRUPTED = 130

store_option = click.option(
    "-s",
    "--store",
    "url",
    metavar="URL",
    help="The store: a folder or file:///folder.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class FailedError(click.ClickException):
    """A command could not do what it was asked."""

    exit_code = 1

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the message without a traceback."""
        click.echo(f"castore: {self.format_message()}", file=file, err=True)


class NoStoreError(FailedError):
    """There is no store at the place named."""

    exit_code = 10


def not_empty(
    _context: click.Context, _parameter: click.Parameter, value: str | tuple[str, ...]
) -> str | tuple[str, ...]:
    """Refuse empty names: a variable that is not set would stand for any entry."""
    if "" in ((value,) if isinstance(value, str) else value):
        msg = "is empty; `castore ls` shows tables and keys"
        raise click.BadParameter(msg)
    return value


def note(message: str) -> None:
    """Say something that is not data."""
    click.echo(f"castore: {message}", err=True)


def existing(url: str | None) -> Store:
    """Return the store at `url`, or where the settings say.

    Raises
    ------
    NoStoreError
        If there is none.
    """
    store = castore.open(url)
    if digest_of(store) is None:
        msg = f"no store at {store.url}; `castore init {shlex.quote(store.url)}` makes one"
        raise NoStoreError(msg)
    return store


def digest_of(store: Store) -> str | None:
    """Return the digest that names the store's blobs, or None if it has not been made yet."""
    return store.digest()


def entries_of(store: Store, table: str) -> list[EntryInfo]:
    """Return the entries of the tables with the suffix `table`, or of the one with that id.

    Raises
    ------
    NotFoundError
        If there is no such table, or several have an id that begins so.
    """
    entries = list(store.entries())
    by_suffix = [entry for entry in entries if entry.suffix == table]
    if by_suffix:
        return by_suffix
    by_id = [entry for entry in entries if table and entry.table.startswith(table.lower())]
    if len({entry.table for entry in by_id}) == 1:
        return by_id
    what = "several tables" if by_id else "no table"
    msg = (
        f"{store.url} has {what} with the suffix {table!r} or an id that begins so; "
        "`castore ls` lists them"
    )
    raise NotFoundError(msg)
