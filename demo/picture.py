"""One picture: what asking took, and what was found."""

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
        figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5.4), width_ratios=(1.05, 1))
        figure.suptitle(title, x=0.012, ha="left", fontsize=15, fontweight="bold")
        _draw_seconds(left, steps)
        _draw_features(right, features, digits)
        figure.savefig(path, dpi=160)
        plt.close(figure)


def _draw_seconds(axes: Axes, steps: Sequence[Step]) -> None:
    seconds = [step.seconds for step in steps]
    start = min(seconds) / 3
    axes.set_title("time until the features were there (logarithmic)")
    axes.set_xscale("log")
    axes.set_xlim(start, max(seconds) * 6)  # room for what is written behind the bars
    for row, step in enumerate(steps):
        colour = REUSED if step.reused else COMPUTED
        axes.barh(row, step.seconds - start, left=start, height=0.62, color=colour)
        axes.annotate(
            f"{_duration(step.seconds)} {'reused' if step.reused else 'computed'}",
            (step.seconds, row), xytext=(6, 0), textcoords="offset points",
            va="center", color=colour, fontweight="bold",
        )  # fmt: skip
    axes.set_yticks(range(len(steps)), [step.name for step in steps])
    axes.xaxis.set_major_formatter(lambda value, _: _duration(value))
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", which="minor", length=0)
    axes.spines["left"].set_visible(False)
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
