"""Timing cases side by side, so that whatever else the machine does slows all of them alike."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Case", "Options", "interleave"]


@dataclass(frozen=True)
class Options:
    """What the command line asked for.

    Attributes
    ----------
    scratch : Path
        A folder on a real disk, gone when the run ends.
    quick : bool
        Smallest sizes and few rounds only: to see that the benchmark works.
    rounds : int or None
        Rounds in place of each section's own number.
    """

    scratch: Path
    quick: bool = False
    rounds: int | None = None

    def rounds_of(self, usual: int, quick: int) -> int:
        """Return how many rounds to run where a section wants `usual`, or `quick` in a hurry."""
        return self.rounds or (quick if self.quick else usual)


@dataclass(frozen=True)
class Case:
    """One thing to time.

    Attributes
    ----------
    name : str
        What the tables call it.
    run : callable
        What is timed. What it returns is dropped, untimed, before the next case begins.
    before, after : callable
        What is done, untimed, around each run.
    """

    name: str
    run: Callable[[], object]
    before: Callable[[], object] = lambda: None
    after: Callable[[], object] = lambda: None


def interleave(cases: Sequence[Case], rounds: int, *, burst: int = 1) -> dict[str, list[float]]:
    """Run all cases in turn, `rounds` times after one to warm up; return seconds by name.

    Each round has another order, so that no case always follows the same neighbour. In a round
    a case runs `burst` times in a row: the first finds the processor's caches full of its
    neighbour's data, the others of its own. Sample ``i`` is the first of its burst where
    ``i % burst`` is 0.
    """
    samples: dict[str, list[float]] = {case.name: [] for case in cases}
    draw = random.Random(0)
    for number in range(-1, rounds):
        gc.collect()
        for case in draw.sample(cases, len(cases)):
            seconds = [_time(case) for _ in range(burst)]
            if number >= 0:
                samples[case.name] += seconds
    return samples


def _time(case: Case) -> float:
    case.before()
    gc.disable()
    try:
        start = time.perf_counter_ns()
        returned = case.run()
        elapsed = time.perf_counter_ns() - start
    finally:
        gc.enable()
    del returned
    case.after()
    return elapsed / 1e9
