"""Runs commits in processes that kill themselves at a named point; one JSON line a run.

Standard input: a JSON list of [root, scenario, point, nth]. With the point null the commit runs
to its end and the line is the list of points it passed.
"""

from __future__ import annotations

import json
import os
import signal
import sys

import numpy as np

import castore
from castore import points

ROWS = np.arange(5000)  # enough for row ids in a blob of their own
OLD, NEW = (np.repeat(ROWS[:, None] * factor, 4, 1).astype("f8") for factor in (1.0, 2.0))


def whole(loader):
    """Return the new value."""
    return NEW


def batches(loader):
    """Yield the new value in pieces."""
    for start in range(0, 5000, 1500):
        yield NEW[start : start + 1500]


SCENARIOS = {
    "new": lambda store: store.get_or_compute(ROWS, whole, "s", model=None),
    "replace": lambda store: store.get_or_compute(ROWS, whole, "s", model=None, force=True),
    "stream": lambda store: store.get_or_compute(ROWS, batches, "s", model=None),
    "put": lambda store: store.put(ROWS, NEW, "s", fn=whole),
}


def run(root, scenario, point, nth):
    """Run one commit in a child; return its wait status and the points it passed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        passed = []

        def observe(name):
            passed.append(name)
            if name == point and passed.count(name) == nth:
                os.kill(os.getpid(), signal.SIGKILL)

        points.observer = observe
        SCENARIOS[scenario](castore.open(root))
        os.write(writer, json.dumps(passed).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        passed = json.loads(pipe.read() or "[]")
    return os.waitpid(child, 0)[1], passed


if __name__ == "__main__":
    for root, scenario, point, nth in json.load(sys.stdin):
        if scenario in ("replace", "put"):
            castore.open(root).put(ROWS, OLD, "s", fn=whole)
        line = [root, scenario, point, nth, *run(root, scenario, point, nth)]
        sys.stdout.write(json.dumps(line) + "\n")
