"""A request answered row by row: what is missing is computed, the rest is gathered.

Requests of one machine whose missing rows overlap share them by claims: each claims what it
misses, then reads what those before it claimed, *then* looks what the store has, computes what
neither covers, commits, and only then waits for the others.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from castore.arrays import AnyArray
from castore.computing import probe, rowwise
from castore.computing.answers import Hit, Miss
from castore.computing.execute import Outcome, execute
from castore.computing.rows import OtherShape, Rows
from castore.computing.turns import Watch
from castore.computing.verdicts import Verdict
from castore.computing.whole import Whole
from castore.errors import ResultError, StoreError
from castore.identity.datasets.samples import Indices
from castore.identity.request import Request
from castore.identity.rows import RowIds
from castore.once.claims import Claim, Claims
from castore.table.adoption import Rescued, adopt
from castore.table.result import LEAVES, Sink
from castore.table.writer import Writer
from castore.threads import together

__all__ = ["Partly"]

_log = logging.getLogger("castore")


class _Whole(Exception):  # noqa: N818  internal
    """The request must be computed whole; the text says why."""


@dataclass
class Partly:
    """One request on its way to an answer.

    Attributes
    ----------
    rows : Rows
        What of it is there.
    whole : Whole
        Computes all of it, where that must be.
    miss : Miss
        Why it was not found whole.
    """

    rows: Rows
    whole: Whole
    miss: Miss

    def __post_init__(self) -> None:
        """Begin without trouble."""
        self._options = self.whole.options
        self._publisher = self.whole.publisher
        self._recorder = self._publisher.notices.recorder
        self._trouble: ResultError | StoreError | None = None
        self._computed = 0
        self._claims = Claims(self.rows.scope)

    @property
    def request(self) -> Request:
        """What is asked for."""
        return self.rows.request

    def answer(self) -> Any:
        """Return what the function returns over all rows.

        Raises
        ------
        ResultError, CommitError
            If rows that were computed could not be stored, with the whole result.
        """
        while True:
            with self._claim() as claim:
                try:
                    self._work(claim)
                    if not len(self.rows.missing()):
                        self._audit()
                        break
                except (_Whole, OtherShape) as why:
                    return self.whole.answer(replace(self.miss, why=str(why)))
            self._wait(claim)
        hit = self.rows.hit(LEAVES[self._options.returns])
        self._count(hit)
        value = hit.value
        if self._trouble is not None:
            self._publisher.tell(self._trouble, self.request, value)
        elif self._options.materialize and self.whole.writer is not None:
            self._materialize(self.whole.writer, value)
        return value

    def _count(self, hit: Hit) -> None:
        recorder = self._recorder
        recorder.add("partial_hits" if self._computed else "hits")
        recorder.add("rows_reused", self.rows.reused)
        recorder.add("bytes_served", hit.nbytes * self.rows.reused // max(1, len(self.rows.ids)))
        recorder.add("saved_ns", hit.saved_ns)
        _log.info(
            "%s: %d rows computed, %d reused from %d entries", self.request.function.name,
            self._computed, self.rows.reused, len(self.rows.taken),
        )  # fmt: skip

    def _claim(self) -> Claim:
        """Tell others on this machine what we are about to compute, if they can have it."""
        if self.whole.writer is None:
            return Claim(None, None, lambda: True)
        missing = self.rows.ids[self.rows.missing()]
        return self._claims.claim(missing, self.request.function.name)

    def _work(self, claim: Claim) -> None:
        """Compute what nobody has and nobody before us is computing."""
        self._await_verdict(claim)
        others = self._others(claim)
        self._adopt()
        verdict = self.verdict()
        self.rows.refresh(square=verdict is not None)
        if verdict is None:
            self.rows.gather()
            chosen = probe.choose(lent for _, lent in self.rows.taken)
            verdict = self._probe(chosen, self.rows.copy_of(chosen))
            if verdict is not None and verdict.rowwise:
                self.rows.refresh()
        if verdict is None:
            raise _Whole("")
        if not verdict.rowwise:
            raise _Whole(verdict.why)
        mine = self.rows.missing(others)
        if len(mine) == len(self.rows.ids):
            raise _Whole("")
        if len(mine):
            self.rows.expect()
            self._compute(mine)
        self.rows.gather()

    def _await_verdict(self, claim: Claim) -> None:
        """Where there is no verdict, wait for what it could be based on.

        Those who claimed some of the rows before will leave rows to compare with.
        """
        if self.verdict() is None:
            missing = self.rows.ids[self.rows.missing()]
            with self._watch() as watch:
                claim.wait_for_all(
                    missing, wait=self.whole.turn.left(), stop=lambda: self.verdict() is not None,
                    on_wait=watch.tell,
                )  # fmt: skip

    def _wait(self, claim: Claim) -> None:
        """Wait until one of those before us has rows that are missing."""
        missing = self.rows.ids[self.rows.missing()]
        with self._watch() as watch:
            claim.wait_for_any(missing, wait=self.whole.turn.left(), on_wait=watch.tell)

    def _watch(self) -> Watch:
        return Watch(self._recorder, self._options.progress)

    def _others(self, claim: Claim) -> RowIds:
        """Return what those before us are computing, while we have the patience to wait."""
        lower = claim.lower() if self.whole.turn.left() > 0 else []
        return np.concatenate([np.empty((0, 16), np.uint8), *(one.row_ids for one in lower)])

    def verdict(self) -> Verdict | None:
        """Return what is known about the function."""
        return self.whole.finder.verdict(self.request, self._options)

    def _adopt(self) -> None:
        """Take over what a process that is gone had sealed of a stream."""
        request, writer = self.request, self.whole.writer
        if writer is not None:
            kin, code = self.rows.kin, request.function.recorded["functions"]
            adopt(self._publisher.backend, writer, kin, code, self._vouch)

    def _vouch(self, rescued: Rescued) -> bool:
        """Tell whether rows of a stream are what their row ids say, and may count by themselves.

        Some are always computed again, the last one among them: nobody counted the rows of a
        stream that did not come to its end.
        """
        lent = self.rows.lent_by(rescued.row_ids)
        positions = np.zeros(len(self.rows.ids), np.int64)
        positions[lent.places] = lent.positions
        chosen = probe.choose([lent])
        stored = rescued.take(positions[chosen])
        verdict = self.verdict()
        if verdict is None:
            verdict = self._probe(chosen, stored)
            return verdict is not None and verdict.rowwise
        if not verdict.rowwise or not len(chosen):
            return False
        self._recorder.add("rows_probed", len(chosen))
        return not self._disagreement(self.request.over(chosen), stored)

    def _probe(self, chosen: Indices, stored: Mapping[str, AnyArray]) -> Verdict | None:
        """Compute some stored rows again and compare; None if they can tell nothing."""
        alone = probe.alone(stored)
        if not alone:
            return None
        self._recorder.add("rows_probed", len(chosen) + len(alone))
        jointly = self.request.over(chosen, probe.sizes(len(chosen)))
        why = self._disagreement(jointly, stored)
        for row in alone:
            by_itself = self.request.over(chosen[row : row + 1])
            kept = {name: column[row : row + 1] for name, column in stored.items()}
            why = why or self._disagreement(by_itself, kept, stored)
        return self._judged(Verdict(not why, "probe", why or f"{len(chosen)} rows agreed"))

    def _judged(self, verdict: Verdict) -> Verdict:
        name = self.request.function.name
        if verdict.rowwise:
            _log.info("%s: rows are reused from now on: %s", name, verdict.why)
        else:
            _log.warning("%s: rows are not reused: %s", name, verdict.why)
        self.whole.finder.verdicts.keep(
            self.request, verdict, writing=self.whole.writer is not None
        )
        return verdict

    def _disagreement(
        self,
        some: Request,
        stored: Mapping[str, AnyArray],
        among: Mapping[str, AnyArray] | None = None,
    ) -> str:
        """Compute some rows again; say in what they differ, or what went wrong."""
        try:
            outcome = execute(some, self.whole.call, Sink(lambda: None), progress=False)
        except Exception as error:  # whatever the function raises
            return f"it raised {type(error).__name__} over some of the rows: {error}"
        if isinstance(outcome, ResultError):
            return str(outcome)
        return self._objection(outcome, some) or rowwise.difference(
            stored, outcome.columns(), among
        )

    def _objection(self, outcome: Outcome, some: Request) -> str:
        """Say why what the function returned cannot be rows of the table."""
        if outcome.objection:
            return outcome.objection
        if not outcome.result.is_aligned(some.rows):
            return f"it returned another number of rows than the {some.rows:,} it was given"
        reading = some.plan.reading if some.plan else None
        if self._options.rowwise is not True and reading is not None and reading.passes != 1:
            return f"it passed over its loader {reading.passes} times"
        return ""

    def _compute(self, mine: Indices) -> None:
        """Compute some rows over a loader of just those, and publish them."""
        some = self.request.over(mine)
        with contextlib.ExitStack() as uploads:
            try:
                sink = self._publisher.sink(self.whole.writer, uploads, some)
                outcome = execute(some, self.whole.call, sink, self._options.progress)
            except Exception as error:  # the function's own: it may need all rows
                raise _Whole(f"it raised {type(error).__name__}: {error}") from error
            if isinstance(outcome, ResultError):
                raise _Whole(str(outcome)) from outcome
            if why := self._objection(outcome, some):
                raise _Whole(why)
            self.rows.fill(mine, outcome.result.form, outcome.columns())
            self._recorder.add("computations")
            self._recorder.add("rows_computed", len(mine))
            if self.rows.damaged:
                self._recorder.add("rows_mended", self.rows.damaged)
            self._recorder.add("compute_ns", outcome.elapsed)
            self._computed += len(mine)
            if self.whole.writer is not None:
                # Both wait: one for the disk, the other for memory.
                together(
                    functools.partial(self._publish, self.whole.writer, some, outcome),
                    self.rows.gather,
                )

    def _publish(self, writer: Writer, some: Request, outcome: Outcome) -> None:
        try:
            commit = self._publisher.commit(
                writer, some, outcome.result, outcome.elapsed,
                force=self.rows.damaged > 0, codec=self._options.codec,
            )  # fmt: skip
            if commit.adopted:
                self._recorder.add("disagreements")
        except (ResultError, StoreError) as error:
            self._trouble = error

    def _audit(self) -> None:
        """Compute a sample of the gathered rows again; overturn the verdict if they differ."""
        reused = np.concatenate([np.empty(0, np.int64), *(t.places for _, t in self.rows.taken)])
        if not self._options.audit or not len(reused):
            return
        count = math.ceil(self._options.audit * len(reused))
        chosen = np.sort(np.random.default_rng().choice(reused, count, replace=False))
        self._recorder.add("rows_audited", count)
        why = self._disagreement(self.request.over(chosen), self.rows.copy_of(chosen))
        if why:
            self._recorder.add("audits_failed")
            self._judged(Verdict(rowwise=False, by="audit", why=f"an audit found that {why}"))
            raise _Whole(why)

    def _materialize(self, writer: Writer, value: Any) -> None:
        result, cost = self.rows.result(), self.rows.saved_ns()
        try:
            self._publisher.commit(
                writer, self.request, result, cost, mixed=True, codec=self._options.codec
            )
        except (ResultError, StoreError) as error:
            self._publisher.tell(error, self.request, value)
