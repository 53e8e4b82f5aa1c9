"""A request resolved: found in the store, or computed and published."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from castore import catalog
from castore.backend.base import Backend
from castore.blobs import layout
from castore.computing.answers import Hit, Miss, Options
from castore.computing.execute import Outcome, check_rows, execute
from castore.errors import (
    CastoreError,
    CastoreWarning,
    CommitError,
    ConfigError,
    DamagedError,
    NotFoundError,
    ResultError,
    StoreError,
)
from castore.identity.code import name_of
from castore.identity.request import Request
from castore.stats import Recorder
from castore.table.entry import Entry, find_entry
from castore.table.result import LEAVES, Sink, collect
from castore.table.tree import assemble
from castore.table.writer import Commit, Writer, origin

__all__ = ["Resolver"]

_log = logging.getLogger("castore")

_REMEMBERED = 32  # manifests, of at most 1 MiB each
_NOTHING = Sink(lambda: None)


Call: TypeAlias = Callable[[Any], Any]


@dataclass(frozen=True)
class Resolver:
    """Looks requests up, and computes what is missing, for one store in one process.

    Attributes
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
    """

    backend: Backend
    recorder: Recorder
    mode: str
    lenient: bool
    copy: bool
    _known: dict[str, tuple[object, Entry]] = field(default_factory=dict, repr=False)
    _probed: set[str] = field(default_factory=set, repr=False)

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
            self._announce(request)
            found = self._found(request, options)
            if isinstance(found, Miss):
                self._refuse_random(request)
        except ConfigError:
            raise
        except CastoreError as error:
            if not self.lenient:
                raise
            self._warn(error)
            return self._run_uncached(call, loader, options)
        if isinstance(found, Hit):
            return found.value
        return self._compute(request, call, found, options)

    def _found(self, request: Request, options: Options) -> Hit | Miss:
        if options.force or self.mode == "refresh":
            return Miss("forced")
        return self.find(request, options)

    def _refuse_random(self, request: Request) -> None:
        """See, once a source, that its samples are the same each time they are loaded."""
        if request.is_frozen:
            return
        tried = request.tried()
        if not tried <= self._probed:
            request.refuse_random()
            self._probed.update(tried)

    def find(self, request: Request, options: Options) -> Hit | Miss:
        """Answer `request` from the store, every byte checked, or say why not.

        A fault may be passing, or a manifest may just have been replaced, so what is missing or
        damaged is read once more before it counts.
        """
        try:
            with contextlib.suppress(DamagedError):
                return self._find(request, options)
            self._known.clear()
            return self._find(request, options)
        except DamagedError as error:
            _log.warning("%s: %s; computing it again", request.function.name, error)
            return Miss("damaged")

    def _find(self, request: Request, options: Options) -> Hit | Miss:
        entry = self._entry(request)
        if entry is None:
            return Miss("absent")
        if self.backend.near:
            _compare_rows(entry, request)
        value = self._assembled(entry, options)
        self.recorder.add("hits")
        self.recorder.add("bytes_served", entry.nbytes)
        _log.debug("hit %s %s", request.function.name, entry.manifest.name)
        return Hit(entry, value)

    def _entry(self, request: Request) -> Entry | None:
        """Return the entry of `request`; a manifest already read is not read again.

        Only on a near store, where asking whether it was replaced costs no request. What its
        blobs hold is checked every time.
        """
        found = self._exact(request)
        return found if found is not None or not request.any_of else self._similar(request)

    def _similar(self, request: Request) -> Entry | None:
        """Return the newest entry that differs from `request` in what it ignores only."""
        entries = [
            entry
            for entry in catalog.scan(self.backend, request.function.table)
            if request.answers(entry.manifest.derivation.get("entry"), entry.manifest.key)
        ]
        return max(entries, key=catalog.created, default=None)

    def _exact(self, request: Request) -> Entry | None:
        table, key = request.function.table, request.key
        seen = self.backend.stat(layout.entry(table, key)) if self.backend.near else None
        if seen is None:
            return find_entry(self.backend, table, key, copy=self.copy)
        known = self._known.get(seen.name)
        if known is not None and known[0] == seen.tag:
            return known[1]
        entry = find_entry(self.backend, table, key, copy=self.copy)
        if entry is not None:
            for name in list(self._known)[: max(0, len(self._known) + 1 - _REMEMBERED)]:
                self._known.pop(name, None)  # the oldest; other threads may be here too
            self._known[seen.name] = (seen.tag, entry)
        return entry

    def _compute(self, request: Request, call: Call, miss: Miss, options: Options) -> Any:
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
            outcome = execute(request, call, self._sink(writer, uploads), options.progress)
            if isinstance(outcome, ResultError):
                if not self.lenient or outcome.partial:
                    raise outcome
                self._warn(outcome)
                return outcome.result
            value = _value(outcome, options)
            try:
                check_rows(outcome.result, request, options.rowwise)
                winner = self._publish(writer, request, outcome, miss)
                return value if winner is None else self._assembled(winner, options)
            except (ResultError, StoreError) as error:
                if not self.lenient:
                    raise _with_result(error, request, value) from error
                self._warn(error)
                return value

    def store(self, request: Request, value: Any, options: Options) -> Entry:
        """Publish a value that was computed elsewhere, in place of what is there."""
        writer = Writer(self.backend, request.function.table, request.function.derivation)
        with contextlib.ExitStack() as uploads:
            result = collect(value, request.rows, "the value", self._sink(writer, uploads))
            check_rows(result, request, options.rowwise)
            return self._commit(writer, request, Outcome(result, 0, ""), force=True).entry

    def _run_uncached(self, call: Call, loader: Any, options: Options) -> Any:
        """Run the function and return what it returns, in the form a hit would have."""
        returned = call(loader)
        try:
            return collect(returned, None, name_of(call), _NOTHING).value(options.returns)
        except ResultError as error:
            if not self.lenient:
                raise
            self._warn(error)
            return returned

    def _announce(self, request: Request) -> None:
        """Log, once each, what the user should know about how the request was identified."""
        for notice in request.notices():
            if self.recorder.first(notice):
                _log.warning("%s", notice)

    def entry(self, request: Request) -> Entry:
        """Return the entry of `request`.

        Raises
        ------
        NotFoundError
            If there is none.
        """
        entry = self._entry(request)
        if entry is None:
            msg = f"{self.backend.url} has no entry for {request.function.name} over these rows"
            raise NotFoundError(msg)
        return entry

    def _warn(self, error: CastoreError) -> None:
        """Warn once of each trouble that a result is returned in spite of, and count it."""
        self._keep_out(error.code, f"{error}\nThe result is returned and not stored.")

    def _keep_out(self, reason: str, message: str) -> None:
        self.recorder.add(f"uncached.{reason}")
        if self.recorder.first(f"{reason} {message}"):
            warnings.warn(message, CastoreWarning, stacklevel=2)

    def _writer(self, request: Request) -> Writer | None:
        if self.mode == "ro":
            self.recorder.add("uncached.read-only")
            return None
        try:
            return Writer(self.backend, request.function.table, request.function.derivation)
        except StoreError as error:
            if not self.lenient:
                raise
            self._warn(error)
            return None

    def _sink(self, writer: Writer | None, uploads: contextlib.ExitStack) -> Sink:
        """Return where streamed rows go: uploads that last until `uploads` is closed."""
        if writer is None:
            return _NOTHING
        return Sink(lambda: uploads.enter_context(self.backend.upload()), writer.algorithm)

    def _publish(
        self, writer: Writer | None, request: Request, outcome: Outcome, miss: Miss
    ) -> Entry | None:
        """Publish; return the entry of another writer who published other values first."""
        if outcome.objection:
            self._keep_out("input-changed", outcome.objection)
            return None
        if writer is None:
            return None
        commit = self._commit(writer, request, outcome, force=miss.reason != "absent")
        if not commit.adopted:
            return None
        self.recorder.add("disagreements")
        name = request.function.name
        _log.warning("%s: another process computed other values first, and they stay", name)
        return commit.entry

    def _assembled(self, entry: Entry, options: Options) -> Any:
        return assemble(entry.manifest.form, entry.arrays(), LEAVES[options.returns])

    def _commit(self, writer: Writer, request: Request, outcome: Outcome, *, force: bool) -> Commit:
        result = outcome.result
        header = {
            "table": request.function.table,
            "key": request.key,
            "rows": request.rows,
            "aligned": result.is_aligned(request.rows),
            "form": result.form,
            "derivation": request.documents(),
            "origin": origin(outcome.elapsed),
        }
        draft = result.draft(writer.algorithm, request.row_ids)
        commit = writer.publish(draft, header, force=force)
        self.recorder.add("commits")
        self.recorder.add("bytes_stored", commit.stored)
        return commit


def _value(outcome: Outcome, options: Options) -> Any:
    try:
        return outcome.result.value(options.returns)
    except ConfigError as error:  # torch has not every dtype; what was computed is not lost
        raise ResultError(str(error), outcome.result.value("numpy")) from error


def _with_result(error: ResultError | StoreError, request: Request, value: Any) -> CastoreError:
    if isinstance(error, ResultError):
        return ResultError(str(error), value)
    msg = f"{request.function.name} was computed but not stored ({error}); .result has it"
    return CommitError(msg, value)


def _compare_rows(entry: Entry, request: Request) -> None:
    """See that the rows are the request's own; on a near store that costs no request."""
    if entry.manifest.aligned and not entry.has_rows(request.row_ids):
        msg = f"{entry.manifest.name} holds other rows than its key says"
        raise DamagedError(msg)
