"""What a function captures, against reading the same values once by other means."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import joblib
import numpy as np
from harness import Case, Options, interleave
from results import Group, Section, against

from castore.identity.captures import capture

__all__ = ["NAME", "measure"]

NAME = "captures"
_GOALS = {"joblib.hash": 1.0}
#: Objects, and float32 values in each object's array.
_SIZES = ((10, 1_000_000), (10, 1_000), (1_000, 100))
_LARGE = 100_000
LAYER = 3
MEAN = (0.485, 0.456, 0.406)


class Step:
    """An object of the user's, as pipelines are made of."""

    def __init__(self, number: int, values: Any) -> None:
        self.number = number
        self.name = f"step {number}"
        self.scale = 1 / (number + 1)
        self.size = (number, number)
        self.values = values

    def run(self, batch: Any) -> Any:
        """Use attributes and globals."""
        return batch * self.scale - MEAN[LAYER % 3]


def measure(options: Options) -> Section:
    """Time the walk through what a function captures."""
    sizes = _SIZES[: 1 if options.quick else None]
    groups = [_group(count, size, options.rounds_of(40, 5)) for count, size in sizes]
    note = (
        "joblib and pickle read the values only; castore also the code and globals of function "
        "and classes."
    )
    title = "The walk through what a function captures"
    return Section(NAME, title, "speed ÷ peer's", "higher", groups, note)


def _group(count: int, size: int, rounds: int) -> Group:
    draw = np.random.default_rng(0)
    steps = [Step(i, draw.random(size, np.float32)) for i in range(count)]
    cases = [
        Case("castore", partial(capture, _extractor(steps))),
        Case("joblib.hash", partial(joblib.hash, steps)),
        Case("pickle.dumps", partial(pickle.dumps, steps, protocol=5)),
    ]
    goals = _GOALS if size >= _LARGE else {}  # of small values castore reads the code, joblib none
    title = f"{count:,} objects of 5 attributes, {count * size * 4 / 1e6:,.2f} MB of arrays"
    return against(title, interleave(cases, rounds), goals, better="higher")


def _extractor(steps: list[Step]) -> Callable[[Any], Any]:
    def extract(loader: Any) -> Any:
        return [[step.run(batch) for step in steps] for batch in loader]

    return extract
