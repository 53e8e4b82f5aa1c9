"""A request resolved: found in the store, put together from rows, or computed and published."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any, TypeAlias

from castore.backend.base import Backend
from castore.computing.answers import Hit, Miss, Options
from castore.computing.execute import check_rows
from castore.computing.lookup import Finder
from castore.computing.notices import Notices
from castore.computing.partly import Partly
from castore.computing.publish import Publisher
from castore.computing.rows import OtherShape, Rows
from castore.computing.turns import Turns
from castore.computing.verdicts import Verdicts
from castore.computing.whole import Whole
from castore.errors import CastoreError, ConfigError, DamagedError, ResultError
from castore.explain import Explanation, explain
from castore.identity.code import name_of
from castore.identity.request import Request
from castore.stats import Recorder
from castore.table.entry import Entry
from castore.table.result import LEAVES, Sink, collect
from castore.table.writer import Writer

__all__ = ["Resolver"]

_log = logging.getLogger("castore")

_NOTHING = Sink(lambda: None)


_OBJECTIONS = {
    "": "",
    "code": "the entry of these rows was computed by other code",
    "together": "the entry of these rows was put together, and rows may not be reused here",
}

Call: TypeAlias = Callable[[Any], Any]


class Resolver:
    """Looks requests up, and computes what is missing, for one store in one process.

    Parameters
    ----------
    backend : Backend
        Where the store is.
    recorder : Recorder
        What counts.
    mode : str
        ``rw``, ``ro``, ``off`` or ``refresh``.
    lenient : bool
        Whether trouble of the store's own is warned of once, instead of raised.
    copy : bool
        Whether results are read into memory of their own and checked there.
    on_code_change : {"warn", "miss", "raise"}
        What becomes of a result whose function has other code now.
    inherited : bool
        Whether the store came from a process that was computing.
    """

    def __init__(
        self, backend: Backend, recorder: Recorder, *, mode: str, lenient: bool, copy: bool,
        on_code_change: str, inherited: bool = False,
    ) -> None:  # fmt: skip
        self.backend = backend
        self.recorder = recorder
        self.mode = mode
        self.lenient = lenient
        self.notices = Notices(recorder)
        self.finder = Finder(backend, copy, on_code_change, self.notices, Verdicts(backend))
        self.publisher = Publisher(backend, self.notices, mode, lenient)
        self.turns = Turns(backend, recorder, inherited)
        self._probed: set[str] = set()

    def answer(
        self, request_of: Callable[[], Request], call: Call, loader: Any, options: Options
    ) -> Any:
        """Return what `call` returns over `loader`, from the store if that is allowed and there.

        Parameters
        ----------
        request_of : callable
            Finds out what is asked for; may refuse.
        call : callable
            The function.
        loader : Any
            What it is given where nothing is looked up.
        options : Options
            How the caller wants the result.
        """
        if self.mode == "off":
            self.recorder.add("uncached.off")
            return self._run_uncached(call, loader, options)
        try:
            request = request_of()
            self.notices.announce(request)
            found, rows = self._look(request, options)
            if isinstance(found, Miss):
                self._refuse_random(request)
        except ConfigError:
            raise
        except CastoreError as error:
            if not self.lenient:
                raise
            self.notices.survive(error)
            return self._run_uncached(call, loader, options)
        if isinstance(found, Hit):
            return self._serve(request, found)
        return self._compute(request, call, found, rows, options)

    def find(self, request: Request, options: Options) -> Hit | Miss:
        """Answer `request` from the store, every byte checked, or say why not."""
        found, _ = self._look(request, options)
        if isinstance(found, Hit):
            self._serve(request, found)
        return found

    def explain(self, request: Request, options: Options) -> Explanation:
        """Say what would become of `request`, and why."""
        found = self.finder.entry_of(request)
        if found is not None:
            objection = self._objection(found, request, options)
            entry = None if objection else found
            return explain(self.backend, request, entry=entry, reason=objection)
        verdict = self.finder.verdict(request, options)
        if verdict is not None and not verdict.rowwise:
            return explain(self.backend, request, reason=verdict.why)
        rows = Rows(self.finder, request, self.finder.kin(request, options.loose))
        rows.refresh(square=verdict is not None)
        lenders = [(key, len(places)) for key, places in rows.lenders()]
        reason = "" if verdict or not lenders else "a probe will tell whether they may be"
        count = int(rows.known().sum())
        return explain(self.backend, request, known=count, sources=lenders, reason=reason)

    def _objection(self, entry: Entry, request: Request, options: Options) -> str:
        """Say in words why the entry of a request would not answer it."""
        try:
            entry.arrays()
        except DamagedError as error:
            return f"the entry of these rows is damaged: {error}"
        return _OBJECTIONS[self.finder.objection(entry, request, options)]

    def entry(self, request: Request) -> Entry:
        """Return the entry of `request`.

        Raises
        ------
        NotFoundError
            If there is none.
        """
        return self.finder.entry(request)

    def store(self, request: Request, value: Any, options: Options) -> Entry:
        """Publish a value that was computed elsewhere, in place of what is there."""
        writer = Writer(self.backend, request.function.table, request.function.derivation)
        with contextlib.ExitStack() as uploads:
            sink = self.publisher.sink(writer, uploads)
            result = collect(value, request.rows, "the value", sink)
            check_rows(result, request, options.rowwise)
            aligned = options.rowwise is not False
            return self.publisher.commit(
                writer, request, result, 0, force=True, aligned=aligned, codec=options.codec
            ).entry

    def _look(self, request: Request, options: Options) -> tuple[Hit | Miss, Rows | None]:
        """Look for the whole result, then for its rows, where rows may be reused."""
        if options.force or self.mode == "refresh":
            return Miss("forced"), None
        found = self.finder.find(request, options)
        if isinstance(found, Hit) or found.reason != "absent":
            return found, None
        verdict = self.finder.verdict(request, options)
        if verdict is not None and not verdict.rowwise:
            return found, None
        rows = Rows(self.finder, request, self.finder.kin(request, options.loose))
        rows.refresh(square=verdict is not None)
        if verdict is None or len(rows.missing()) or options.audit or options.materialize:
            return found, rows
        with contextlib.suppress(OtherShape):
            rows.gather()
            if not len(rows.missing()):
                return rows.hit(LEAVES[options.returns]), rows
        return found, rows

    def _serve(self, request: Request, hit: Hit) -> Any:
        """Count a hit, and return its value."""
        self.recorder.add("hits")
        self.recorder.add("bytes_served", hit.nbytes)
        self.recorder.add("saved_ns", hit.saved_ns)
        if hit.reused:
            self.recorder.add("rows_reused", hit.reused)
        _log.debug("hit %s %s", request.function.name, request.key)
        return hit.value

    def _refuse_random(self, request: Request) -> None:
        """See, once a source, that its samples are the same each time they are loaded."""
        if request.is_frozen:
            return
        tried = request.tried()
        if not tried <= self._probed:
            request.refuse_random()
            self._probed.update(tried)

    def _compute(
        self, request: Request, call: Call, miss: Miss, rows: Rows | None, options: Options
    ) -> Any:
        """Run the function, in turn with others who want the same; return what then stands.

        Raises
        ------
        StoreError
            Before the function runs, if the store cannot be written.
        ResultError, CommitError
            After it ran, with what it returned.
        """
        writer = self.publisher.writer(request)

        def look() -> Hit | None:
            found, _ = self._look(request, options)
            return found if isinstance(found, Hit) else None

        with self.turns.take(request, look, options, writing=writer is not None) as turn:
            if turn.hit is not None:
                return self._serve(request, turn.hit)

            whole = Whole(request, call, options, self.finder, self.publisher, writer, turn)
            if rows is None:
                return whole.answer(miss)
            return Partly(rows, whole, miss).answer()

    def _run_uncached(self, call: Call, loader: Any, options: Options) -> Any:
        """Run the function and return what it returns, in the form a hit would have."""
        returned = call(loader)
        try:
            return collect(returned, None, name_of(call), _NOTHING).value(options.returns)
        except ResultError as error:
            if not self.lenient:
                raise
            self.notices.survive(error)
            return returned
