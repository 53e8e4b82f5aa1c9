"""The memory that a streamed result takes, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from harness import Options
from results import Group, Row, Section

__all__ = ["NAME", "measure"]

NAME = "streaming"
_GOAL_MB = 300.0
_BATCHES = 64
_BATCHES_QUICK = 8


def measure(options: Options) -> Section:
    """Stream a result of 4 GB, in batches of 64 MB, and look at the memory this takes."""
    child = Path(__file__).with_name("streaming_child.py")
    count = _BATCHES_QUICK if options.quick else _BATCHES
    command = [sys.executable, str(child), str(options.scratch / "streamed"), str(count)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout)
    peak = found["peak"]
    rows = [
        Row("peak resident memory", [peak], "B", peak / 1e6, peak / 1e6, _GOAL_MB),
        Row("anonymous memory, largest seen", [found["anonymous"]], "B"),
        Row("resident before the first batch", [found["before"]], "B"),
        Row("time, fsync included", [found["seconds"]], "s"),
    ]
    title = f"{found['nbytes'] / 1e9:.2f} GB in {count} batches of 67 MB"
    note = "A fresh process with numpy and castore, without torch. 1 MB = 1,000,000 bytes."
    groups = [Group(title, rows)]
    return Section(NAME, "A streamed result", "peak memory, MB", "lower", groups, note)
