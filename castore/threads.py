"""A few blocking calls at a time, in threads that end with them.

No pool outlives the call, so nothing is lost in a forked child.
"""

from __future__ import annotations

import functools
import itertools
import os
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["take_turns", "together"]

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


def take_turns(turn: Callable[[int], object], count: int) -> None:
    """Call ``turn(0)`` to ``turn(count - 1)``, each once, in as many threads as help.

    That is as many as there are processors, at most eight, and one for two turns. After an error
    no further turn is taken, and the first error is raised.
    """
    numbers = itertools.count()  # whoever is free takes the next; a late thread takes fewer
    errors: list[BaseException] = []

    def work() -> None:
        try:
            while not errors and (number := next(numbers)) < count:
                turn(number)
        except BaseException as error:  # raised again below, in the caller's thread
            errors.append(error)

    helpers = min(_processors(), _AT_ONCE, count // 2) - 1
    threads = [threading.Thread(target=work, name="castore") for _ in range(helpers)]
    for thread in threads:
        thread.start()
    work()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@functools.cache
def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
