"""A progress bar for long computations, on a terminal only."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Self, TypeAlias

__all__ = ["Progress", "shown", "shown_if_called"]

#: True, False, None (a bar on a terminal, for work beyond a second), or a function that is
#: called with the rows done and the rows in all (None where unknown).
Progress: TypeAlias = bool | Callable[[int, int | None], object] | None

_DELAY = 1.0  # seconds


@contextlib.contextmanager
def shown(progress: Progress, label: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show how far a computation is while the block runs.

    Yields
    ------
    callable
        To be called with the number of rows done so far.
    """
    if callable(progress):
        report = progress
        yield lambda done: _call(report, done, total)
    elif progress is False or (progress is None and not sys.stderr.isatty()):
        yield lambda _done: None
    else:
        with _Bar(label, total, 0.0 if progress else _DELAY) as bar:
            yield bar.update


@contextlib.contextmanager
def shown_if_called(progress: Progress, label: str) -> Iterator[Callable[[int], None]]:
    """Show how far work is whose extent is unknown, from the first step of it on.

    A function given as `progress` counts rows and hears nothing of this.

    Yields
    ------
    callable
        To be called with the number of steps done so far.
    """
    with contextlib.ExitStack() as stack:
        updates: list[Callable[[int], None]] = []

        def update(done: int) -> None:
            if not updates:
                bar = None if callable(progress) else progress
                updates.append(stack.enter_context(shown(bar, label, None)))
            updates[0](done)

        yield update


def _call(report: Callable[[int, int | None], object], done: int, total: int | None) -> None:
    report(done, total)


class _Bar:
    """A rich progress bar on stderr that appears after a delay and leaves no trace."""

    def __init__(self, label: str, total: int | None, delay: float) -> None:
        self._label = label
        self._total = total
        self._done = 0
        self._stop = threading.Event()
        self._delay = delay
        self._thread = threading.Thread(target=self._show, name="castore-progress", daemon=True)

    def update(self, done: int) -> None:
        self._done = done

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _show(self) -> None:
        if self._stop.wait(self._delay):
            return
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = [SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()]
        console = Console(stderr=True)
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(self._label, total=self._total)
            while not self._stop.wait(0.1):
                if self._done and len(bar.columns) == len(columns):
                    counted = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
                    bar.columns = (*bar.columns, *counted)
                bar.update(task, completed=self._done)
