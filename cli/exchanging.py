"""``castore export`` and ``castore import``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click

import castore
from castore import catalog
from castore.catalog import EntryInfo
from castore.cli.output import print_json, printable
from castore.cli.quantities import named, size
from castore.cli.shared import existing, json_option, not_empty, store_option

__all__ = ["export", "import_"]

_WHOLE = re.compile(r"-?[0-9]{1,18}")


@click.command(short_help="Write an entry as a folder of plain Zarr files.")
@click.argument("key", callback=not_empty)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@store_option
@json_option
def export(key: str, folder: Path, url: str | None, as_json: bool) -> None:
    """Write the entry whose key begins with KEY to DIR, as plain files of a Zarr v3 hierarchy.

    DIR must not exist, or be empty. It appears whole: every byte is checked, and if anything is
    damaged there is no DIR.

    \b
    Example:
      castore export 1f224e44 /data/features.zarr
    """  # noqa: D301  \b keeps the lines of the example
    entry = existing(url).entry(key.lower())
    place = entry.export(folder)
    info = catalog.entry_info(entry)
    if as_json:
        print_json({**_document(info), "folder": str(place)})
    else:
        click.echo(f"exported {info.key} to {printable(str(place))} ({_extent(info)})")


def _inputs(
    _context: click.Context, _parameter: click.Parameter, given: tuple[str, ...]
) -> dict[str, Any] | None:
    """Read ``NAME=VALUE``; None where nothing is given."""
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals):
            msg = f"{text!r} is no input: write it as NAME=VALUE"
            raise click.BadParameter(msg)
        if name in found:
            msg = f"{name!r} is given twice"
            raise click.BadParameter(msg)
        found[name] = _value(value)
    return found or None


def _value(text: str) -> Any:
    """Return JSON where it is some, else the text."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return text


def _refuse(name: str) -> Any:
    raise ValueError(name)  # NaN is no JSON, whatever Python reads


def _version(
    _context: click.Context, _parameter: click.Parameter, text: str | None
) -> str | int | None:
    """Return a whole number where it is one, as `version=2` has it in Python."""
    return text if text is None or not _WHOLE.fullmatch(text) else int(text)


@click.command("import", short_help="Make an entry of a folder of Zarr files.")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--suffix", required=True, help="Names what this is.")
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_inputs,
    help="What it was made from; repeat it for more. JSON where VALUE is some, else text.",
)
@click.option(
    "--version", metavar="V", callback=_version, help="A whole number where V is one, else text."
)
@click.option("--force", is_flag=True, help="Replace what is there.")
@store_option
@json_option
def import_(
    *,
    folder: Path,
    suffix: str,
    inputs: dict[str, Any] | None,
    version: str | int | None,
    force: bool,
    url: str | None,
    as_json: bool,
) -> None:
    """Make one entry of the Zarr v3 hierarchy in DIR, which stays as it is.

    It is found by what it was made from: store.find(suffix, inputs={...}) in Python, with the same
    --input. Without --input it goes by its own content. What was stored under the same key before
    stays, unless --force says to replace it. A store that is not there is made.

    \b
    Examples:
      castore import /data/features.zarr --suffix features
      castore import era.zarr --suffix era5 --input year=2024 --input level=surface
    """  # noqa: D301  \b keeps the lines of the examples
    store = castore.open(url)
    info = store.import_zarr(folder, suffix, inputs=inputs, version=version, force=force)
    if as_json:
        print_json({**_document(info), "folder": str(folder), "url": store.url})
    else:
        what = f"{printable(str(folder))} as {info.key} ({_extent(info)})"
        click.echo(f"imported {what} into {printable(store.url)}")


def _document(info: EntryInfo) -> dict[str, Any]:
    return {"key": info.key, "arrays": len(info.columns), "bytes": info.nbytes}


def _extent(info: EntryInfo) -> str:
    return f"{named(len(info.columns), 'array', 'arrays')}, {size(info.nbytes)}"
