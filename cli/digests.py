"""``castore digests``."""

from __future__ import annotations

import os
from pathlib import Path

import click

from castore.canonical import Json
from castore.cli.output import print_json, print_lines, printable
from castore.cli.quantities import named, size
from castore.cli.shared import FailedError, json_option, note
from castore.errors import DamagedError
from castore.identity.files import digests_file, memo
from castore.identity.files.contents import contents, relative
from castore.identity.files.digests_file import Listed
from castore.identity.files.scan import absolute
from castore.progress import shown

__all__ = ["digests"]


class DisagreementError(FailedError):
    """What is there is not what was written down."""

    exit_code = 3


@click.command(short_help="Write down what the files of a folder contain.")
@click.argument("root", type=click.Path(exists=True, file_okay=False))
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Where the document lies, if not in ROOT.",
)
@click.option("--check", is_flag=True, help="Read every file again and compare.")
@json_option
def digests(root: str, out: Path | None, check: bool, as_json: bool) -> None:
    """Write down what the files below ROOT contain, beside them.

    Every machine that sees ROOT then takes the digests of its files from ROOT/.castore-digests
    in place of reading them: those whose size and modification time are as they were. Write it
    again when files have changed.

    Where ROOT cannot be written, name another FILE, and set CASTORE_DIGESTS=ROOT=FILE for those
    who read.

    With --check, nothing is written. Files that differ, are missing, or are not listed are
    printed, and the exit code is 3 if there are any.

    \b
    Examples:
      castore digests /data/imagenet
      castore digests /data/imagenet --check
    """  # noqa: D301  \b keeps the lines of the example
    place = digests_file.place(root) if out is None else out
    if check:
        _check(root, place, as_json)
    else:
        _write(root, place, as_json)


def _write(root: str, place: Path, as_json: bool) -> None:
    paths, others = _files(root, place)
    with shown(None, "reading files", len(paths)) as on_file:
        # What an earlier document says is never taken over.
        found = contents(paths, root, on_file, known=[memo.look_up])
    names, listed, changing = _names(paths, root), [], []
    for index, (name, (length, mtime, *_)) in enumerate(
        zip(names, found.stamps.tolist(), strict=True)
    ):
        if found.quiet[index]:
            listed.append(Listed(name, length, mtime, found.digests[index].tobytes().hex()))
        else:
            changing.append(name)
    try:
        digests_file.write(place, listed)
    except OSError as error:
        msg = f"{printable(str(place))} cannot be written ({error.strerror}); say --out FILE"
        raise FailedError(msg) from error
    if changing:
        note(
            f"left out {named(len(changing), 'file', 'files')} that changed less than two "
            "seconds ago: run it again"
        )
    if others:
        note(f"left out {named(len(others), 'link or device', 'links and devices')}")
    nbytes = sum(file.size for file in listed)
    if as_json:
        left_out = {"changing": changing, "others": _names(others, root)}
        found_json = {"files": len(listed), "bytes": nbytes, "left_out": left_out}
        print_json({"document": str(place), **found_json})
    else:
        what = f"{named(len(listed), 'file', 'files')}, {size(nbytes)}"
        click.echo(f"wrote {printable(str(place))} ({what})")


def _check(root: str, place: Path, as_json: bool) -> None:
    listed = {file.name: file for file in _read(place)}
    paths, _ = _files(root, place)
    there = dict(zip(_names(paths, root), paths, strict=True))
    both = sorted(listed.keys() & there.keys())
    with shown(None, "reading files", len(both)) as on_file:
        found = contents([there[name] for name in both], root, on_file, known=[])
    differing, touched = [], []
    for name, digest, stamp in zip(both, found.digests, found.stamps.tolist(), strict=True):
        if digest.tobytes().hex() != listed[name].digest:
            differing.append(name)
        elif stamp[:2] != [listed[name].size, listed[name].mtime_ns]:
            touched.append(name)
    disagreements: dict[str, Json] = {
        "differing": differing,
        "missing": sorted(listed.keys() - there.keys()),
        "extra": sorted(there.keys() - listed.keys()),
    }
    if as_json:
        document = {"document": str(place), "files": len(listed)}
        print_json({**document, **disagreements, "touched": touched})
    else:
        print_lines((kind, name) for kind, names in disagreements.items() for name in names)
    if touched:
        note(
            f"{named(len(touched), 'file has', 'files have')} another time than is written down, "
            "and will be read by each machine: write the document again"
        )
    if count := sum(map(len, disagreements.values())):
        msg = f"{named(count, 'file disagrees', 'files disagree')} with {printable(str(place))}"
        raise DisagreementError(msg)
    if not as_json:
        click.echo(f"{named(len(both), 'file is', 'files are')} as in {printable(str(place))}")


def _files(root: str, place: Path) -> tuple[list[str], list[str]]:
    """Return the files below `root` but the document, and what is no file."""
    paths, others = digests_file.files_below(root)
    own = absolute(str(place))
    return [path for path in paths if absolute(path) != own], others


def _names(paths: list[str], root: str) -> list[str]:
    return [os.fsdecode(name) for name in relative(paths, root)]


def _read(place: Path) -> list[Listed]:
    try:
        return digests_file.read(place)
    except OSError as error:
        msg = f"{printable(str(place))} cannot be read ({error.strerror})"
        raise FailedError(msg) from error
    except DamagedError as error:
        raise DisagreementError(str(error)) from error
