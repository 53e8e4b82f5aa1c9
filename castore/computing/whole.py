"""A request computed over all its rows."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from castore.computing.answers import Miss, Options
from castore.computing.execute import Outcome, check_rows, execute
from castore.computing.lookup import Finder
from castore.computing.publish import Publisher
from castore.computing.retire import retire_others
from castore.computing.turns import Turn
from castore.errors import CastoreError, ConfigError, ResultError, StoreError
from castore.explain import short_reason
from castore.identity.request import Request
from castore.stats import Recorder
from castore.table.result import LEAVES
from castore.table.tree import assemble
from castore.table.writer import Commit, Writer

__all__ = ["Whole"]

_log = logging.getLogger("castore")


@dataclass(frozen=True)
class Whole:
    """One request to be computed whole.

    Attributes
    ----------
    request : Request
        What is asked for.
    call : callable
        The function.
    options : Options
        How the caller wants it.
    finder : Finder
        Reads entries.
    publisher : Publisher
        Where the result goes.
    writer : Writer or None
        None where nothing can be stored.
    turn : Turn
        The right to compute.
    """

    request: Request
    call: Callable[[Any], Any]
    options: Options
    finder: Finder
    publisher: Publisher
    writer: Writer | None
    turn: Turn

    def answer(self, miss: Miss) -> Any:
        """Run the function, publish what it returns, and return what then stands.

        Raises
        ------
        BaseException
            Whatever the function raises.
        ResultError, CommitError
            After it ran, with what it returned.
        """
        self._recorder.add(f"misses.{miss.reason}")
        self._log(miss)
        publisher, request = self.publisher, self.request
        with contextlib.ExitStack() as uploads:
            verdict = self.finder.verdict(request, self.options)
            reusable = verdict is None or verdict.rowwise
            sink = publisher.sink(self.writer, uploads, request if reusable else None)
            outcome = execute(request, self.call, sink, self.options.progress)
            if isinstance(outcome, ResultError):
                if not publisher.lenient or outcome.partial:
                    raise outcome
                publisher.notices.survive(outcome)
                return outcome.result
            self._recorder.add("computations")
            self._recorder.add("compute_ns", outcome.elapsed)
            self._recorder.add("rows_computed", request.rows or 0)
            if miss.reason == "damaged":
                self._recorder.add("rows_mended", request.rows or 0)
            value = self._value(outcome)
            try:
                check_rows(outcome.result, request, self.options.rowwise)
                return self._published(outcome, miss, value)
            except (ResultError, StoreError) as error:
                publisher.tell(error, request, value)
                return value

    @property
    def _recorder(self) -> Recorder:
        return self.publisher.notices.recorder

    def _log(self, miss: Miss) -> None:
        if not _log.isEnabledFor(logging.INFO):
            return
        reason = miss.reason
        if reason == "absent":
            with contextlib.suppress(CastoreError):
                reason = short_reason(self.publisher.backend, self.request)
        why = f"; rows are not reused: {miss.why}" if miss.why else ""
        _log.info("miss %s (%s%s)", self.request.function.name, reason, why)

    def _value(self, outcome: Outcome) -> Any:
        try:
            return outcome.result.value(self.options.returns)
        except ConfigError as error:  # torch has not every dtype; what was computed is not lost
            raise ResultError(str(error), outcome.result.value("numpy")) from error

    def _published(self, outcome: Outcome, miss: Miss, value: Any) -> Any:
        """Publish; return `value`, or that of another writer who published other values first."""
        if outcome.objection:
            self.publisher.notices.keep_out("input-changed", outcome.objection)
            return value
        if self.writer is None:
            return value
        commit = self._commit(self.writer, outcome, miss)
        if not commit.adopted:
            return value
        self._recorder.add("disagreements")
        name = self.request.function.name
        _log.warning("%s: another process computed other values first, and they stay", name)
        form, arrays = commit.entry.manifest.form, commit.entry.arrays()
        return assemble(form, arrays, LEAVES[self.options.returns])

    def _commit(self, writer: Writer, outcome: Outcome, miss: Miss) -> Commit:
        force = miss.replaces and self.turn.may_replace()
        commit = self.publisher.commit(
            writer, self.request, outcome.result, outcome.elapsed,
            force=force, aligned=self.options.rowwise is not False, codec=self.options.codec,
        )  # fmt: skip
        if force and miss.reason == "forced":
            verdict = self.finder.verdict(self.request, self.options)
            if verdict is not None and verdict.rowwise:
                kin = self.finder.kin(self.request, self.options.loose)
                retire_others(self.publisher.backend, writer, self.request, kin)
        return commit
