"""One picture of all figures that were measured against something."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from results import Group, Row, Section

__all__ = ["draw"]

_MET, _MISSED, _PLAIN = "#1f8a70", "#d1495b", "#b8c4cc"
_INK, _SOFT, _GRID = "#22303a", "#6b7a85", "#e6ebee"
_ROW_INCHES, _HEAD_INCHES = 0.34, 1.1


@dataclass(frozen=True)
class _Bar:
    label: str
    row: Row
    met: bool | None
    y: float

    @property
    def colour(self) -> str:
        return {True: _MET, False: _MISSED, None: _PLAIN}[self.met]


def draw(path: Path, sections: Sequence[Section], subtitle: str) -> None:
    """Draw every section as a panel of bars, with a mark at each goal, into a PNG file."""
    columns = _columns(sections)
    deepest = max(sum(map(_lines, column)) for column in columns)
    tall = deepest * _ROW_INCHES + _HEAD_INCHES
    figure = Figure(figsize=(8.6 * len(columns), tall), layout="constrained", facecolor="white")
    engine = figure.get_layout_engine()
    engine.set(rect=(0, 0, 1, 1 - _HEAD_INCHES / tall), h_pad=0.12, w_pad=0.15)
    sides = figure.subfigures(1, len(columns), squeeze=False)[0]
    for side, column in zip(sides, columns, strict=True):
        lines = [_lines(section) for section in column]
        rest = max(deepest - sum(lines), 0.01)
        panels = side.subplots(len(lines) + 1, 1, height_ratios=[*lines, rest])
        panels[-1].set_axis_off()
        for panel, section in zip(panels, column, strict=False):
            _panel(panel, section)
    _text(figure, 0.32, "castore beside its peers", size=17, weight="bold", color=_INK)
    _text(figure, 0.62, subtitle, size=9, color=_SOFT)
    _legend(figure, 0.88)
    figure.savefig(path, dpi=150)


def _columns(sections: Sequence[Section]) -> list[Sequence[Section]]:
    """Split sections, in order, into two columns as equal as can be; few stay in one."""
    if len(sections) <= 2:
        return [sections]
    halves = [[sections[:cut], sections[cut:]] for cut in range(1, len(sections))]
    return min(halves, key=lambda half: max(sum(map(_lines, column)) for column in half))


def _lines(section: Section) -> float:
    """Return the height of a panel in bars, with its title and axis."""
    return 1.6 + sum(1 + len(_shown(group)) for group in section.groups)


def _shown(group: Group) -> list[Row]:
    return [row for row in group.rows if row.figure is not None]


def _text(figure: Figure, top: float, text: str, *, left: float = 0.2, **style: Any) -> None:
    """Write at `left` and `top` inches from the corner."""
    width, height = figure.get_size_inches()
    figure.text(left / width, 1 - top / height, text, va="center", **style)


def _legend(figure: Figure, top: float) -> None:
    left = 0.2
    marks = (("■", _MET, "goal met"), ("■", _MISSED, "goal missed"), ("■", _PLAIN, "no goal set"))
    for sign, colour, text in (*marks, ("┃", _INK, "goal")):
        _text(figure, top, sign, left=left, size=11, color=colour)
        _text(figure, top, text, left=left + 0.17, size=9, color=_SOFT)
        left += 0.42 + 0.073 * len(text)


def _panel(panel: Axes, section: Section) -> None:
    bars, y = [], 0.0
    for group in section.groups:
        panel.text(
            0, y, group.title, size=8.5, color=_SOFT, va="center", ha="left",
            transform=panel.get_yaxis_transform(), style="italic",
        )  # fmt: skip
        for row in _shown(group):
            y += 1
            bars.append(_Bar(row.name, row, section.meets(row), y))
        y += 1
    _bars(panel, section, bars)
    panel.set_ylim(y - 0.4, -0.6)
    panel.set_title(section.title, loc="left", size=11.5, weight="bold", color=_INK, pad=8)
    side = "higher is better →" if section.better == "higher" else "← lower is better"
    panel.set_title(
        f"castore's {section.figure}   {side}", loc="right", size=8.5, color=_SOFT, pad=8
    )
    panel.set_yticks([bar.y for bar in bars], [bar.label for bar in bars], size=9.5, color=_INK)
    panel.tick_params(length=0)
    panel.tick_params(axis="x", labelsize=8, labelcolor=_SOFT)
    panel.grid(axis="x", color=_GRID)
    panel.set_axisbelow(True)
    panel.spines[:].set_visible(False)


def _bars(panel: Axes, section: Section, bars: list[_Bar]) -> None:
    figures = [bar.row.figure or 0.0 for bar in bars]
    panel.barh([bar.y for bar in bars], figures, 0.62, color=[bar.colour for bar in bars])
    widest = max([*figures, *(bar.row.goal or 0.0 for bar in bars)])
    panel.set_xlim(0, widest * 1.14)
    for bar, figure in zip(bars, figures, strict=True):
        end = figure
        if bar.row.goal is not None:
            panel.plot([bar.row.goal] * 2, [bar.y - 0.43, bar.y + 0.43], color=_INK, lw=2.4)
            if figure <= bar.row.goal < figure + widest * 0.09:
                end = bar.row.goal
        panel.text(
            end + widest * 0.012, bar.y, bar.row.shown(figure), size=9, color=_INK, va="center",
            weight="normal" if bar.met is None else "bold",
        )  # fmt: skip
