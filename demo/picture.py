"""One picture: which rows were computed, what asking took, and what was found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from steps import Step

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw"]

COMPUTED, REUSED, INK, QUIET = "#c2703d", "#2a7f86", "#22272e", "#8a929c"
STYLE = {
    "axes.edgecolor": QUIET,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "axes.titlesize": 10.5,
    "figure.constrained_layout.h_pad": 0.12,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.15,
    "font.size": 10,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def draw(
    path: Path,
    title: str,
    steps: Sequence[Step],
    features: NDArray[np.float32],
    digits: NDArray[np.integer],
) -> None:
    """Write the picture to `path`.

    Parameters
    ----------
    path : Path
        A PNG file.
    title : str
        The finding.
    steps : sequence of Step
        The requests, in their order.
    features : ndarray
        float32 (n, d).
    digits : ndarray
        int64 (n,): what each of the n images shows.
    """
    mpl.use("agg")
    from matplotlib import pyplot as plt

    with plt.rc_context(STYLE):
        figure, (left, middle, right) = plt.subplots(
            1, 3, figsize=(16, 5.4), width_ratios=(1.15, 0.85, 1)
        )
        figure.suptitle(title, x=0.009, ha="left", fontsize=15, fontweight="bold")
        _draw_rows(left, steps)
        _draw_seconds(middle, steps)
        _draw_features(right, features, digits)
        figure.savefig(path, dpi=160)
        plt.close(figure)


def _draw_rows(axes: Axes, steps: Sequence[Step]) -> None:
    axes.set_title("where the rows came from")
    most = max(step.rows for step in steps)
    axes.set_xlim(0, most * 1.8)  # room for what is written behind the bars
    for row, step in enumerate(steps):
        axes.barh(row, step.reused, height=0.62, color=REUSED)
        axes.barh(row, step.computed, left=step.reused, height=0.62, color=COMPUTED)
        parts = {"computed": step.computed, "reused": step.reused}
        axes.annotate(
            ", ".join(f"{rows:,} {part}" for part, rows in parts.items() if rows),
            (step.rows, row), xytext=(6, 0), textcoords="offset points",
            va="center", color=_colour(step), fontweight="bold",
        )  # fmt: skip
    axes.set_yticks(range(len(steps)), [step.name for step in steps])
    _bare(axes)


def _draw_seconds(axes: Axes, steps: Sequence[Step]) -> None:
    seconds = [step.seconds for step in steps]
    start = min(seconds) / 3
    axes.set_title("seconds until they were there (logarithmic)")
    axes.set_xscale("log")
    axes.set_xlim(start, max(seconds) * 30)
    for row, step in enumerate(steps):
        colour = _colour(step)
        axes.barh(row, step.seconds - start, left=start, height=0.62, color=colour)
        remark = f", {_duration(step.waited)} of it waiting" if step.waited else ""
        remark = f", {step.probed} rows tried first" if step.probed else remark
        axes.annotate(
            f"{_duration(step.seconds)}{remark}", (step.seconds, row), xytext=(6, 0),
            textcoords="offset points", va="center", color=colour, fontweight="bold",
        )  # fmt: skip
    axes.set_yticks([])
    _bare(axes)


def _colour(step: Step) -> str:
    return COMPUTED if step.computed else REUSED


def _bare(axes: Axes) -> None:
    """Leave out what numbers beside the bars say already."""
    axes.set_xticks([])
    axes.tick_params(axis="both", which="both", length=0)
    axes.xaxis.set_major_formatter("")
    axes.xaxis.set_minor_formatter("")
    axes.spines[:].set_visible(False)
    axes.invert_yaxis()


def _duration(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds > 0.999 else f"{seconds * 1e3:.3g} ms"  # noqa: PLR2004


def _draw_features(axes: Axes, features: NDArray[np.float32], digits: NDArray[np.integer]) -> None:
    """Project on the two directions of greatest variance, and mark each scan by its digit."""
    centred = features - features.mean(0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    points = centred @ directions[:2].T
    axes.set_title("the features found: every scan, as the digit it shows")
    for digit in range(10):
        x, y = points[digits == digit].T
        axes.scatter(x, y, marker=f"${digit}$", s=26, color=f"C{digit}", alpha=0.8, linewidths=0)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.set_xlabel("first principal component", color=QUIET)
    axes.set_ylabel("second", color=QUIET)
