"""One request, timed, and its rows counted."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import castore

__all__ = ["Step", "ask", "deviation"]


@dataclass(frozen=True)
class Step:
    """One request and its answer.

    Attributes
    ----------
    name : str
        What was asked for.
    rows : int
        How many rows were.
    computed : int
        How many of them were computed; the others came from the store.
    probed : int
        How many were computed once more, to see whether rows may be reused.
    seconds : float
        How long the answer took, finding out what is asked for included.
    waited : float
        For how much of that another process was computing the same.
    sha256 : str
        Digest of the answer, taken apart from castore.
    """

    name: str
    rows: int
    computed: int
    probed: int
    seconds: float
    waited: float
    sha256: str

    @property
    def reused(self) -> int:
        """How many rows came from the store."""
        return self.rows - self.computed


def ask(
    name: str, store: castore.Store, call: Callable[[], NDArray[Any]]
) -> tuple[Step, NDArray[Any]]:
    """Time one request and find out where its rows came from; return that and the answer."""
    before = store.stats()
    start = time.perf_counter()
    features = call()
    seconds = time.perf_counter() - start
    after = store.stats()
    step = Step(
        name=name,
        rows=len(features),
        computed=after.rows_computed - before.rows_computed,
        probed=after.rows_probed - before.rows_probed,
        seconds=seconds,
        waited=after.wait_seconds - before.wait_seconds,
        sha256=hashlib.sha256(features.tobytes()).hexdigest(),
    )
    return step, features


def deviation(features: NDArray[Any], truth: NDArray[Any]) -> float:
    """Return by how much features differ at most, as a share of their size."""
    size = np.abs(truth)
    return float((np.abs(features - truth) / (size + size.mean())).max())
