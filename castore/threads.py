"""A few blocking calls at a time, in threads that end with them.

No pool outlives the call, so nothing is lost in a forked child.
"""

from __future__ import annotations

import functools
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
    if len(calls) <= 1:
        return [call() for call in calls]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(min(len(calls), _AT_ONCE), "castore") as pool:
        futures = [pool.submit(call) for call in calls]
    return [future.result() for future in futures]


def take_turns(turn: Callable[[int], object], count: int) -> None:
    """Call ``turn(0)`` to ``turn(count - 1)``, each once, in as many threads as help.

    That is as many as there are processors, at most eight, and one for two turns. Each takes a
    run of neighbouring turns, so that threads seldom touch the same memory for the first time;
    who is done takes from the end of another's run. After an error no further turn is taken, and
    the first error is raised.
    """
    workers = max(1, min(_processors(), _AT_ONCE, count // 2))
    left = [range(count * n // workers, count * (n + 1) // workers) for n in range(workers)]
    lock = threading.Lock()
    errors: list[BaseException] = []

    def next_of(worker: int) -> int | None:
        with lock:
            if left[worker]:
                number, left[worker] = left[worker][0], left[worker][1:]
                return number
            other = max(range(workers), key=lambda n: len(left[n]))
            if not left[other]:
                return None
            number, left[other] = left[other][-1], left[other][:-1]
            return number

    def work(worker: int) -> None:
        try:
            while not errors and (number := next_of(worker)) is not None:
                turn(number)
        except BaseException as error:  # raised again below, in the caller's thread
            errors.append(error)

    threads = [
        threading.Thread(target=work, args=(worker,), name="castore")
        for worker in range(1, workers)
    ]
    for thread in threads:
        thread.start()
    work(0)
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@functools.cache
def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
