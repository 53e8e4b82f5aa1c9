"""A few blocking calls at a time, in threads that end with them.

No pool outlives the call, so nothing is lost in a forked child.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["together"]

_AT_ONCE = 8


def together(*calls: Callable[[], Any]) -> list[Any]:
    """Run `calls` side by side and return what they return, in order.

    All are run to their end; then the first error, in order, is raised.
    """
    if len(calls) == 1:
        return [calls[0]()]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(min(len(calls), _AT_ONCE), "castore") as pool:
        futures = [pool.submit(call) for call in calls]
    return [future.result() for future in futures]
