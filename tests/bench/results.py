"""What was measured, and how it stands to the goals."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["TIMES", "Group", "Row", "Section", "against"]

#: The sign, not the letter.
TIMES = "×"  # noqa: RUF001


@dataclass(frozen=True)
class Row:
    """One case.

    Attributes
    ----------
    name : str
        What was run.
    samples : list of float
        Every measurement, in `unit`.
    unit : {"s", "B"}
        Seconds or bytes.
    figure : float or None
        What a goal is set for, and the plot shows: a ratio of medians, or a size in MB.
    best_figure : float or None
        The same ratio, of minima.
    goal : float or None
        The least (or largest) `figure` aimed at.
    """

    name: str
    samples: list[float]
    unit: Literal["s", "B"] = "s"
    figure: float | None = None
    best_figure: float | None = None
    goal: float | None = None

    @property
    def median(self) -> float:
        """Median of the samples."""
        return statistics.median(self.samples)

    @property
    def least(self) -> float:
        """Smallest of the samples."""
        return min(self.samples)

    def shown(self, figure: float | None) -> str:
        """Return a figure of this row, or its goal, as people read it."""
        if figure is None:
            return ""
        return f"{figure:,.0f} MB" if self.unit == "B" else f"{figure:.3g}{TIMES}"


@dataclass(frozen=True)
class Group:
    """Cases of one size, measured in turn with each other."""

    title: str
    rows: list[Row]


@dataclass(frozen=True)
class Section:
    """One page of the benchmark.

    Attributes
    ----------
    name : str
        What ``--only`` calls it.
    title : str
        What is measured.
    figure : str
        What the figures are of castore.
    better : {"higher", "lower"}
        Which figures are good.
    groups : list of Group
        The measurements.
    note : str
        What to know when reading them.
    """

    name: str
    title: str
    figure: str
    better: Literal["higher", "lower"]
    groups: list[Group] = field(default_factory=list)
    note: str = ""

    def meets(self, row: Row) -> bool | None:
        """Tell whether the row reaches its goal; None where there is none."""
        if row.figure is None or row.goal is None:
            return None
        return row.figure >= row.goal if self.better == "higher" else row.figure <= row.goal

    def document(self) -> dict[str, Any]:
        """Return the section as JSON has it, every sample included."""
        return {
            "name": self.name,
            "title": self.title,
            "figure": self.figure,
            "better": self.better,
            "note": self.note,
            "groups": [
                {"title": group.title, "rows": [self._row(row) for row in group.rows]}
                for group in self.groups
            ],
        }

    def _row(self, row: Row) -> dict[str, Any]:
        return {
            **vars(row),
            "median": row.median,
            "min": row.least,
            "met": self.meets(row),
        }


def against(
    title: str,
    samples: Mapping[str, list[float]],
    goals: Mapping[str, float],
    *,
    better: Literal["higher", "lower"],
    beside: Collection[str] = (),
) -> Group:
    """Compare ``samples["castore"]`` with every other.

    Parameters
    ----------
    title : str
        What the group is of.
    samples : mapping
        Seconds by case.
    goals : mapping
        Goals by case.
    better : {"higher", "lower"}
        ``higher``: a figure is castore's speed over the other's; ``lower``: its time.
    beside : collection of str
        Cases to show without comparing.
    """
    own = Row("castore", samples["castore"])
    rows = [own]
    for name, seconds in samples.items():
        other = Row(name, seconds)
        if name == "castore":
            continue
        if name in beside:
            rows.append(other)
            continue
        figures = [(own.median, other.median), (own.least, other.least)]
        speed, best = (b / a if better == "higher" else a / b for a, b in figures)
        rows.append(Row(name, seconds, "s", speed, best, goals.get(name)))
    return Group(title, rows)
