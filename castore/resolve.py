"""A request resolved: found in the store, or computed and published."""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from castore.backend.base import Backend, Upload
from castore.errors import (
    CastoreError,
    CastoreWarning,
    CommitError,
    DamagedError,
    NotFoundError,
    ResultError,
    StoreError,
)
from castore.guard import undisturbed
from castore.identity.model import hash_model
from castore.identity.request import Request
from castore.progress import Progress, shown
from castore.stats import Recorder
from castore.table.entry import Entry, find_entry
from castore.table.result import LEAVES, Result, Sink, collect
from castore.table.tree import assemble
from castore.table.writer import Commit, Writer, origin

__all__ = ["Miss", "Resolver", "RowAlignment"]

_log = logging.getLogger("castore")

RowAlignment = bool | Literal["auto"]


@dataclass(frozen=True)
class Miss:
    """Why a request is not answered from the store: ``absent``, ``damaged`` or ``forced``."""

    reason: str


@dataclass
class Resolver:
    """Looks requests up, and computes what is missing, for one store in one process.

    Attributes
    ----------
    backend : Backend
        Where the store is.
    recorder : Recorder
        What counts.
    writable : bool
        Whether results are published.
    lenient : bool
        Whether trouble of the store's own is warned of once, instead of raised.
    copy : bool
        Whether results are read into memory of their own and checked there.
    """

    backend: Backend
    recorder: Recorder
    writable: bool
    lenient: bool
    copy: bool

    def find(self, request: Request, returns: str) -> tuple[Entry, Any] | Miss:
        """Return the entry and the value of a hit, every byte of it checked, or why it is a miss.

        A fault may be passing, or a manifest may just have been replaced, so whatever is missing
        or damaged is read once more before it counts.
        """
        for last in (False, True):
            try:
                entry = find_entry(
                    self.backend, request.function.table, request.key, copy=self.copy
                )
                if entry is None:
                    return Miss("absent")
                value = self._value(entry, request, returns)
            except DamagedError as error:
                if last:
                    _log.warning("%s: %s; computing it again", request.function.name, error)
                    return Miss("damaged")
            else:
                return entry, value
        raise AssertionError

    def _value(self, entry: Entry, request: Request, returns: str) -> Any:
        columns = entry.arrays()
        if self.backend.near:
            _compare_rows(entry, request)
        value = assemble(entry.manifest.form, columns, LEAVES[returns])
        self.recorder.add("hits")
        self.recorder.add("bytes_served", sum(array.nbytes for array in columns.values()))
        _log.debug("hit %s %s", request.function.name, entry.manifest.name)
        return value

    def compute(
        self,
        request: Request,
        call: Callable[[Any], Any],
        miss: Miss,
        *,
        returns: str,
        rowwise: RowAlignment = "auto",
        progress: Progress = None,
    ) -> Any:
        """Run the function and publish what it returns; return the value that now stands.

        Raises
        ------
        StoreError
            Before the function runs, if the store cannot be written.
        ResultError, CommitError
            After it ran, with what it returned.
        """
        self.recorder.add(f"misses.{miss.reason}")
        _log.info("miss %s (%s)", request.function.name, miss.reason)
        writer = self._writer(request)
        with contextlib.ExitStack() as uploads:
            sink = _sink(self.backend, writer, uploads)
            computed = self._run(request, call, sink, progress)
            result, changed, elapsed = computed
            self._check_rows(result, request, rowwise, returns)
            if writer is None:
                return result.value(returns)
            if changed:
                self._keep_out("input-changed", changed)
                return result.value(returns)
            return self._publish(writer, request, result, elapsed, miss, returns)

    def store(self, request: Request, value: Any, *, rowwise: RowAlignment = "auto") -> Entry:
        """Publish a value that was computed elsewhere, in place of what is there."""
        writer = Writer(self.backend, request.function.table, request.function.derivation)
        result = collect(value, request.rows, "the value", Sink(lambda: None, writer.algorithm))
        self._check_rows(result, request, rowwise, "numpy")
        return self._commit(writer, request, result, 0, force=True).entry

    def run_uncached(self, call: Callable[[Any], Any], loader: Any, returns: str, name: str) -> Any:
        """Run the function and return what it returns, in the form a hit would have."""
        returned = call(loader)
        try:
            return collect(returned, None, name, Sink(lambda: None)).value(returns)
        except ResultError as error:
            if not self.lenient:
                raise
            self.warn(error)
            return returned

    def warn(self, error: CastoreError) -> None:
        """Warn once of each kind of trouble, and count every one."""
        self._keep_out(error.code, f"{error}\nThe result is computed and not stored.")

    def _keep_out(self, reason: str, message: str) -> None:
        self.recorder.add(f"uncached.{reason}")
        if self.recorder.first(f"{reason} {message}"):
            warnings.warn(message, CastoreWarning, stacklevel=2)

    def _writer(self, request: Request) -> Writer | None:
        if not self.writable:
            self.recorder.add("uncached.read-only")
            return None
        try:
            return Writer(self.backend, request.function.table, request.function.derivation)
        except StoreError as error:
            if not self.lenient:
                raise
            self.warn(error)
            return None

    def _run(
        self, request: Request, call: Callable[[Any], Any], sink: Sink, progress: Progress
    ) -> tuple[Result, str, int]:
        """Run the function; return its result, why it must not be stored, and the time in ns."""
        plan, function = request.plan, request.function
        loader = plan.loader if plan else None
        before = [hash_model(model) for model in function.models]
        label = f"computing {function.suffix or function.name}"
        with shown(progress, label, request.rows) as update:
            if plan and plan.reading:
                plan.reading.on_draw = update
            start = time.perf_counter_ns()
            with undisturbed(function.models, loader):
                returned = call(loader)
                sink = Sink(sink.open, sink.algorithm, update)
                result = collect(returned, request.rows, function.name, sink)
            elapsed = time.perf_counter_ns() - start
        if plan and plan.reading and not plan.reading.drawn:
            return result, _UNREAD.format(function.name), elapsed
        after = [hash_model(model) for model in function.models]
        return result, "" if before == after else _CHANGED.format(function.name), elapsed

    def _check_rows(
        self, result: Result, request: Request, rowwise: RowAlignment, returns: str
    ) -> None:
        rows = request.rows
        if rowwise is False or rows is None or result.is_aligned(rows):
            return
        found = sorted({extent for extent in result.extents().values() if extent is not None})
        batch = request.plan.variant["batch_size"] if request.plan else None
        nearly = {rows // batch * batch, -(-rows // batch) * batch} - {0} if batch else set()
        if rowwise is True or nearly & set(found):
            msg = (
                f"{request.function.name} returned {found} rows for {rows:,} samples: return one "
                "a sample, or say rowwise=False if the result is of the whole"
            )
            raise ResultError(msg, result.value(returns))

    def _publish(
        self,
        writer: Writer,
        request: Request,
        result: Result,
        elapsed: int,
        miss: Miss,
        returns: str,
    ) -> Any:
        value = result.value(returns)
        try:
            commit = self._commit(writer, request, result, elapsed, force=miss.reason != "absent")
            if commit.adopted:
                self.recorder.add("disagreements")
                return assemble(
                    commit.entry.manifest.form, commit.entry.arrays(), LEAVES[returns]
                )
        except ResultError as error:
            raise ResultError(str(error), value) from error
        except StoreError as error:
            if self.lenient:
                self.warn(error)
                return value
            msg = f"{request.function.name} was computed but not stored ({error}); .result has it"
            raise CommitError(msg, value) from error
        return value

    def _commit(
        self, writer: Writer, request: Request, result: Result, elapsed: int, *, force: bool
    ) -> Commit:
        header = {
            "table": request.function.table,
            "key": request.key,
            "rows": request.rows,
            "aligned": result.is_aligned(request.rows),
            "form": result.form,
            "derivation": request.documents(),
            "origin": origin(elapsed),
        }
        draft = result.draft(writer.algorithm, request.row_ids)
        commit = writer.publish(draft, header, force=force)
        self.recorder.add("commits")
        self.recorder.add("bytes_stored", commit.stored)
        return commit

    def entry(self, request: Request) -> Entry:
        """Return the entry of `request`.

        Raises
        ------
        NotFoundError
            If there is none.
        """
        entry = find_entry(self.backend, request.function.table, request.key, copy=self.copy)
        if entry is None:
            msg = f"{self.backend.url} has no entry for {request.function.name} over these rows"
            raise NotFoundError(msg)
        return entry


_UNREAD = (
    "{0} did not read the loader it was given, which has the rows in dataset order because the "
    "original is shuffled: its result is returned, not stored. Read the argument, or pass a "
    "loader with shuffle=False."
)
_CHANGED = (
    "{0} changed the model's parameters or buffers while it ran: its result is returned, not "
    "stored. Call model.eval() first, or pass a model that stays as it is."
)


def _sink(backend: Backend, writer: Writer | None, uploads: contextlib.ExitStack) -> Sink:
    if writer is None:
        return Sink(lambda: None)

    def begin() -> Upload:
        return uploads.enter_context(backend.upload())

    return Sink(begin, writer.algorithm)


def _compare_rows(entry: Entry, request: Request) -> None:
    """A near store's row ids cost no request, so a hit sees that they are the request's own."""
    stored = entry.row_ids()
    if stored is not None and not np.array_equal(stored, request.row_ids):  # type: ignore[arg-type]
        msg = f"{entry.manifest.name} holds other rows than its key says"
        raise DamagedError(msg)

