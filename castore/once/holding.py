"""What this context holds that others may wait for.

Whoever holds something never waits for a lease, and whoever holds a claim never for another
claim but those below his own. So no circle of waiters can close, however calls are nested.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Literal

__all__ = ["Holding", "holding", "nested"]

_held: contextvars.ContextVar[tuple[Holding, ...]] = contextvars.ContextVar("held", default=())


class Holding:
    """That this context holds something, from now until it is `over`.

    Parameters
    ----------
    kind : str
        ``"lease"``, ``"claim"``, or ``"unknown"``: what somebody else in another process holds.
    """

    def __init__(self, kind: Literal["lease", "claim", "unknown"]) -> None:
        self.kind = kind
        self.is_over = False
        _held.set((*_now(), self))

    def over(self) -> None:
        """End it, also from another context."""
        self.is_over = True
        _held.set(_now())


def holding(*, claim: bool = False) -> bool:
    """Tell whether this context holds a lease or a claim, or with `claim` perhaps a claim.

    So does all code called from here, and a process forked from here, but not a thread that
    was started.
    """
    return any(not claim or one.kind != "lease" for one in _now())


@contextlib.contextmanager
def nested() -> Iterator[None]:
    """Have the block count as holding anything: it works for a process that may."""
    held = Holding("unknown")
    try:
        yield
    finally:
        held.over()


def _now() -> tuple[Holding, ...]:
    return tuple(one for one in _held.get() if not one.is_over)
