"""Publishing what was computed."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from castore import tally
from castore.arrays import raw
from castore.backend.base import Backend, Upload
from castore.blobs.codec import NONE
from castore.computing.notices import Notices
from castore.errors import CommitError, DamagedError, ResultError, StoreError
from castore.identity.request import Request
from castore.table.entry import Entry
from castore.table.manifest import put_together
from castore.table.result import Codecs, Result, Sink
from castore.table.sealing import Sealing
from castore.table.writer import Commit, Writer, origin

__all__ = ["Publisher"]

_LONG = 1_000_000_000  # ns; then a millisecond more is nothing


@dataclass(frozen=True)
class Publisher:
    """Publishes results, for one store in one process.

    Attributes
    ----------
    backend : Backend
        Where the store is.
    notices : Notices
        What tells the user, and counts.
    mode : str
        ``rw``, ``ro``, ``off`` or ``refresh``.
    lenient : bool
        Whether trouble of the store's own is warned of once, instead of raised.
    """

    backend: Backend
    notices: Notices
    mode: str
    lenient: bool

    def writer(self, request: Request) -> Writer | None:
        """Return what publishes into the request's table, None where nothing can be stored.

        Raises
        ------
        StoreError
            If the store cannot be written, and that matters.
        """
        if self.mode == "ro":
            self.notices.recorder.add("uncached.read-only")
            return None
        try:
            return Writer(self.backend, request.function.table, request.function.derivation)
        except StoreError as error:
            if not self.lenient:
                raise
            self.notices.survive(error)
            return None

    def sink(
        self, writer: Writer | None, uploads: contextlib.ExitStack, request: Request | None = None
    ) -> Sink:
        """Return where streamed rows go: uploads that last until `uploads` is closed.

        Parameters
        ----------
        writer : Writer or None
            None where nothing can be stored.
        uploads : ExitStack
            What ends them.
        request : Request, optional
            Whose rows are to outlive a killed process: those that may be reused.
        """
        if writer is None:
            return Sink(lambda: None)
        seals = None
        if request is not None and request.row_ids is not None:
            table, ids = request.function.table, request.row_ids
            sealing = Sealing(self.backend, table, request.key, ids, request.documents)
            seals = uploads.enter_context(sealing)
        begin = functools.partial(_begun, self.backend, uploads)
        return Sink(begin, writer.algorithm, seals=seals)

    def commit(
        self, writer: Writer, request: Request, result: Result, elapsed: int, *,
        force: bool = False, aligned: bool = True, mixed: bool = False, codec: Codecs = NONE,
    ) -> Commit:  # fmt: skip
        """Publish `result` as what the request asks for.

        Parameters
        ----------
        writer : Writer
            Of the request's table.
        request : Request
            What was asked for.
        result : Result
            What the function returned.
        elapsed : int
            How long it took, in nanoseconds.
        force : bool
            Replace what is there.
        aligned : bool
            Whether rows of it may be found by themselves, if it has one a sample.
        mixed : bool
            Whether it was gathered from several results.
        codec : str or mapping
            What encodes its columns.

        Raises
        ------
        ResultError, StoreError
            If it cannot be stored, or not so.
        """
        row_ids = request.row_ids if aligned and result.is_aligned(request.rows) else None
        documents = request.documents()
        header = {
            "table": request.function.table,
            "key": request.key,
            "rows": request.rows,
            "aligned": row_ids is not None,
            "form": result.form,
            "derivation": put_together(documents, "mixed") if mixed else documents,
            "origin": origin(elapsed),
        }
        with contextlib.ExitStack() as uploads:
            begin = functools.partial(_begun, self.backend, uploads)
            draft = result.draft(writer.algorithm, row_ids, codec, begin)
            commit = writer.publish(draft, header, force=force)
        if commit.adopted and _is_the_same(commit.entry, result):
            commit = replace(commit, adopted=False)
        self.notices.recorder.add("commits")
        self.notices.recorder.add("bytes_stored", commit.stored)
        if elapsed > _LONG:
            tally.flush()  # a job that is cancelled runs no handlers at exit
        return commit

    def tell(self, error: ResultError | StoreError, request: Request, value: Any) -> None:
        """Warn that `value` was computed and is not stored, if that is wanted, or raise.

        Raises
        ------
        ResultError, CommitError
            With the value.
        """
        if self.lenient:
            self.notices.survive(error)
            return
        if isinstance(error, ResultError):
            raise ResultError(str(error), value) from error
        name = request.function.name
        msg = f"{name} was computed but not stored ({error}); .result has it"
        raise CommitError(msg, value) from error


def _begun(backend: Backend, uploads: contextlib.ExitStack) -> Upload:
    return uploads.enter_context(backend.upload())


def _is_the_same(entry: Entry, result: Result) -> bool:
    """Tell whether an entry of other bytes has the values of `result`.

    It may be encoded otherwise: by another codec, or by another version of its library.
    """
    try:
        stored, own = entry.arrays(), result.arrays()
    except DamagedError:
        return False
    return entry.manifest.form == result.form and all(
        (a.dtype, a.shape) == (b.dtype, b.shape) and np.array_equal(raw(a), raw(b))
        for a, b in ((stored[name], own[name]) for name in own)
    )
