"""Stream a result into the store argv[1] in argv[2] batches; print what memory it took as JSON."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import castore

ROWS, COLUMNS = 8192, 2048


def resident(field: str) -> int:
    """Return a field of ``/proc/self/status`` in bytes.

    ``getrusage`` would do for the peak, but a child begins with the peak of its parent.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    (value,) = (line.split()[1] for line in lines if line.startswith(f"{field}:"))
    return int(value) * 1024


def main(root: str, count: int) -> None:
    """Stream, measure, print."""
    logging.getLogger("castore").setLevel(logging.ERROR)
    anonymous = [0]

    def batches(samples: Any) -> Iterator[Any]:
        for number in range(len(samples) // ROWS):
            batch = np.full((ROWS, COLUMNS), number, np.float32)
            yield batch
            anonymous[0] = max(anonymous[0], resident("RssAnon"))

    before = resident("VmRSS")
    start = time.perf_counter()
    result = castore.open(root).get_or_compute(
        np.arange(count * ROWS), batches, "streamed", dataset_id="stream@1", model=None
    )
    seconds = time.perf_counter() - start
    found = {
        "anonymous": anonymous[0],
        "before": before,
        "nbytes": result.nbytes,
        "peak": resident("VmHWM"),
        "seconds": seconds,
    }
    assert result.shape == (count * ROWS, COLUMNS)
    assert result[::ROWS, 0].tolist() == list(range(count))
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
