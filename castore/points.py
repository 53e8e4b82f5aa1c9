"""Named points of a write, where a test may stop the process.

A crash-safe protocol is a claim about every moment between two writes. `reach` marks those
moments; production code pays one comparison. Tests set `observer` to kill the process there
(as gofail and FoundationDB's buggify do).
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["POINTS", "observer", "reach"]

#: In the order a commit of a new table passes them.
POINTS = (
    "local.temp-opened",
    "local.temp-written",
    "local.temp-synced",
    "local.named",
    "local.folders-synced",
    "commit.begun",
    "commit.blobs-stored",
    "commit.published",
    "commit.looked",
)

observer: Callable[[str], None] | None = None


def reach(point: str) -> None:
    """Tell the observer, if there is one, that `point` is reached."""
    if observer is not None:
        observer(point)
