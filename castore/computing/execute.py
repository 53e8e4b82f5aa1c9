"""Running the user's function: watched, and leaving the process as it was."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from castore.arrays import AnyArray
from castore.computing.guard import undisturbed
from castore.errors import FingerprintError, ResultError
from castore.identity.captures import capture
from castore.identity.function import Function
from castore.identity.models.snapshot import snapshot
from castore.identity.request import Request
from castore.progress import Progress, shown
from castore.table.result import Result, Sink, collect

__all__ = ["Outcome", "check_rows", "execute"]

_log = logging.getLogger("castore")


@dataclass(frozen=True)
class Outcome:
    """What running a function came to.

    Attributes
    ----------
    result : Result
        What it returned, in columns.
    elapsed : int
        How long it took, in nanoseconds.
    objection : str
        Why the result must not be stored under its key; empty if it may be.
    """

    result: Result
    elapsed: int
    objection: str

    def columns(self) -> dict[str, AnyArray]:
        """Return the arrays of the result by column; streamed ones mapped."""
        return self.result.arrays()


def execute(
    request: Request, call: Callable[[Any], Any], sink: Sink, progress: Progress = None
) -> Outcome | ResultError:
    """Run `call` over the request's loader, or its twin.

    Returns
    -------
    Outcome or ResultError
        The error, if what it returned cannot be kept: returned, so that it is not taken for one
        that `call` raises.

    Raises
    ------
    BaseException
        Whatever `call` raises.
    """
    plan, function = request.plan, request.function
    loader = plan.loader if plan else None
    with shown(progress, f"computing {function.suffix or function.name}", request.rows) as update:
        if plan and plan.reading:
            plan.reading.on_draw = update
        start = time.perf_counter_ns()
        with undisturbed(function.models.values(), loader):
            returned = call(loader)
            try:
                sink = replace(sink, on_rows=update)
                result = collect(returned, request.rows, function.name, sink)
            except ResultError as refusal:
                return refusal
        elapsed = time.perf_counter_ns() - start
    if plan:
        _tell_changes(request, call)
    if plan and plan.reading and not plan.reading.drawn:
        return Outcome(result, elapsed, _UNREAD.format(function.name))
    changed = _changed(function)
    return Outcome(result, elapsed, _CHANGED.format(function.name, changed) if changed else "")


def _changed(function: Function) -> str:
    """Return what the function changed of its models, the first few by name."""
    found: list[str] = []
    for path, before in function.states.items():
        try:
            after = snapshot(function.models[path])
        except FingerprintError as error:  # one that cannot be described any more
            return str(error)
        found += [f"{path}: {name}" for name in before.differences(after)]
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(found[:_SHOWN]) + more


def _tell_changes(request: Request, call: Callable[[Any], Any]) -> None:
    """Log what the function captures and changed itself: the next call has another key."""
    before = request.function.derivation["captured"]
    try:
        after = capture(call, request.plan.loader if request.plan else None).values
    except FingerprintError:  # told when the next call is identified; this one has its result
        return
    changed = sorted(path for path in before if after.get(path) != before[path])
    if changed:
        _log.warning(
            "%s changed what it captures while it ran (%s), so its next call has another key; "
            "a counter or a log can be left out: ignore=%r",
            request.function.name,
            ", ".join(changed),
            tuple(changed),
        )


def check_rows(result: Result, request: Request, rowwise: bool | str) -> None:
    """Refuse a result with a row count that looks like an accident.

    Under ``"auto"``, that is the number of samples rounded to whole batches: what a loop that
    drops or pads the last batch returns.

    Raises
    ------
    ResultError
        Naming both counts.
    """
    rows = request.rows
    if rowwise is False or rows is None or result.is_aligned(rows):
        return
    batch = request.plan.batch_size if request.plan else None
    rounded = {rows // batch * batch, -(-rows // batch) * batch} - {0, rows} if batch else set()
    found = {extent for extent in result.extents().values() if extent is not None}
    if rowwise is True or rounded & found:
        counts = " and ".join(f"{count:,}" for count in sorted(found)) or "no"
        msg = (
            f"{request.function.name} returned {counts} rows for {rows:,} samples: return one a "
            "sample, or say rowwise=False if the result is of the whole"
        )
        raise ResultError(msg)


_UNREAD = (
    "{0} did not read the loader it was given, which has the rows in dataset order because the "
    "original is shuffled: its result is returned, not stored. Read the argument, or pass a "
    "loader with shuffle=False."
)
_CHANGED = (
    "{0} changed its model while it ran ({1}): its result is returned, not stored. Call "
    "model.eval() first, or pass a model that stays as it is."
)
_SHOWN = 5
