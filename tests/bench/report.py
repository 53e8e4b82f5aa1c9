"""Measurements as tables and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from results import Row, Section
from rich import box
from rich.console import Console
from rich.table import Table

__all__ = ["document", "save", "show", "verdict"]

_MARKS = {True: "[green]✓ met[/]", False: "[red]✗ missed[/]", None: ""}


def show(section: Section, console: Console) -> None:
    """Print a section as one table."""
    table = Table(title=section.title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    table.title_style = "bold"
    table.add_column("", no_wrap=True)
    for name in ("median", "min", section.figure, "goal"):
        table.add_column(name, justify="right")
    table.add_column("")
    for group in section.groups:
        table.add_row(f"[bold]{group.title}[/]")
        for row in group.rows:
            table.add_row(f"  {row.name}", *_cells(section, row), _MARKS[section.meets(row)])
        table.add_section()
    if section.note:
        table.caption, table.caption_justify = section.note, "left"
    console.print(table)


def _cells(section: Section, row: Row) -> tuple[str, str, str, str]:
    sign = "≥" if section.better == "higher" else "≤"
    return (
        _quantity(row.median, row.unit),
        _quantity(row.least, row.unit) if len(row.samples) > 1 else "",
        row.shown(row.figure),
        "" if row.goal is None else f"{sign} {row.shown(row.goal)}",
    )


def _quantity(value: float, unit: str) -> str:
    if unit == "B":
        return f"{value / 1e6:,.0f} MB"
    return f"{value * 1e3:,.2f} ms" if value < 1 else f"{value:,.2f} s"


def verdict(sections: Sequence[Section]) -> str:
    """Say how many goals are met."""
    met = [s.meets(row) for s in sections for group in s.groups for row in group.rows]
    judged = [one for one in met if one is not None]
    return f"{sum(judged)} of {len(judged)} goals met"


def document(
    sections: Sequence[Section], machine: dict[str, Any], versions: dict[str, str], *, quick: bool
) -> dict[str, Any]:
    """Return everything there is to say about a run."""
    return {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": quick,
        "machine": machine,
        "versions": versions,
        "sections": [section.document() for section in sections],
    }


def save(path: Path, found: dict[str, Any]) -> None:
    """Write the document as JSON."""
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
