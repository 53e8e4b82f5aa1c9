"""One request, timed."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

import castore

__all__ = ["Step", "ask"]


@dataclass(frozen=True)
class Step:
    """One request and its answer.

    Attributes
    ----------
    name : str
        What was asked for.
    seconds : float
        How long the answer took, finding out what is asked for included.
    reused : bool
        Whether it came from the store.
    stored : int
        Bytes of blobs written.
    sha256 : str
        Digest of the answer, taken apart from castore.
    """

    name: str
    seconds: float
    reused: bool
    stored: int
    sha256: str


def ask(name: str, store: castore.Store, call: Callable[[], NDArray[Any]]) -> Step:
    """Time one request and find out where the answer came from."""
    before = store.stats()
    start = time.perf_counter()
    features = call()
    seconds = time.perf_counter() - start
    after = store.stats()
    return Step(
        name=name,
        seconds=seconds,
        reused=after.hits > before.hits,
        stored=after.bytes_stored - before.bytes_stored,
        sha256=hashlib.sha256(features.tobytes()).hexdigest(),
    )
