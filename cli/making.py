"""``castore init``."""

from __future__ import annotations

import click

import castore
from castore.cli.output import print_json
from castore.cli.shared import digest_of, json_option
from castore.digest import ALGORITHMS

__all__ = ["init"]


@click.command(short_help="Make a store.")
@click.argument("url", required=False)
@click.option(
    "--digest",
    type=click.Choice(ALGORITHMS),
    help=f"What names the blobs, for good. By default {ALGORITHMS[0]}.",
)
@json_option
def init(url: str | None, digest: str | None, as_json: bool) -> None:
    """Make a store at URL, a folder, or where the settings say.

    A store also makes itself when something is first stored in it; `init` is for choosing its
    digest. xxh3-128 finds every accident at the speed of memory; sha256 and blake3 also stand
    against somebody who swaps blobs on purpose, and are ten to twenty times slower.
    Where there is a store already, nothing changes.

    \b
    Example:
      castore init /mnt/flash/castore --digest sha256
    """  # noqa: D301  \b keeps the lines of the example
    store = castore.open(url)
    created = digest_of(store) is None
    found = store.init(digest)
    if as_json:
        print_json({"url": store.url, "digest": found, "created": created})
    else:
        verb = "made a store" if created else "there is a store already"
        click.echo(f"{verb} at {store.url} (blobs named by {found})")
