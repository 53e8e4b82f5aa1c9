"""How commands print: JSON for programs, aligned columns for people."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import click

from castore.canonical import Json

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["Column", "print_json", "print_lines", "print_table", "printable", "shortened"]

#: Off a terminal nothing is folded or cut.
_UNBOUNDED = 1_000_000
#: Columns between cells, and what is left at least of a cell that is cut.
_GAP, _LEAST = 2, 12
_IDENTITY = re.compile(r"\b[0-9a-f]{32,64}\b")
_LENGTHS = (8, 12, 16, 64)


def shortened(texts: Sequence[str]) -> list[str]:
    """Cut the ids in `texts` to eight digits, or as many as tell these ids apart."""
    ids = {identity for text in texts for identity in _IDENTITY.findall(text)}
    length = next(n for n in _LENGTHS if len({i[:n] for i in ids}) == len(ids))
    return [_IDENTITY.sub(lambda found: found[0][:length], text) for text in texts]


def printable(text: str) -> str:
    """Escape what would move the cursor or cannot be encoded: a suffix is anybody's text."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def print_json(document: Json) -> None:
    """Print a document."""
    click.echo(json.dumps(document, indent=2, allow_nan=False))


@dataclass(frozen=True)
class Column:
    """How a column of a table looks.

    Attributes
    ----------
    name : str
        Its heading.
    right : bool
        Whether it is aligned to the right, as numbers are.
    cut : bool
        Whether it gives way where a terminal is narrow.
    """

    name: str
    right: bool = False
    cut: bool = False


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under headings; where not even cut columns fit, lines run on."""
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    cells = [[printable(cell) for cell in row] for row in rows]
    needed = -_GAP
    for index, column in enumerate(columns):
        widest = max(cell_len(cell) for cell in [column.name, *(row[index] for row in cells)])
        least = min(widest, _LEAST) if column.cut else widest
        needed += least + _GAP
        table.add_column(
            column.name,
            justify="right" if column.right else "left",
            min_width=least,
            no_wrap=not column.cut,
        )
    for row in cells:
        table.add_row(*(Text(cell, no_wrap=True, overflow="ellipsis") for cell in row))
    _print(table, needed)


def print_lines(
    lines: Iterable[Sequence[str]], title: str = "", right: Collection[int] = ()
) -> None:
    """Print aligned cells, below a title if there is one; the last of a line folds if it must.

    Parameters
    ----------
    lines : iterable of sequence of str
        Cells, equally many in each line.
    title : str
        Above them.
    right : collection of int
        Cells that are aligned to the right.
    """
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, _GAP, 0, 0))
    for line in lines:
        if not table.columns:
            for index in range(len(line)):
                justify: Literal["left", "right"] = "right" if index in right else "left"
                last = index == len(line) - 1
                table.add_column(justify=justify, no_wrap=not last, overflow="fold")
        table.add_row(*(Text(printable(cell)) for cell in line))
    if title:
        click.echo()
        _print(Text(title, style="bold"))
    _print(Padding(table, (0, 0, 0, 2 if title else 0), expand=False))


def _print(renderable: RenderableType, least: int = 0) -> None:
    """Print through rich, which knows the terminal's width, its colours and ``NO_COLOR``."""
    from rich.console import Console

    console = Console(markup=False, highlight=False, emoji=False)
    console.width = max(console.width, least) if sys.stdout.isatty() else _UNBOUNDED
    with console.capture() as captured:
        console.print(renderable)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())
