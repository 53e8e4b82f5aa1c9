"""Finding what a request asks for, where the store has it whole."""

from __future__ import annotations

import contextlib
import functools
import logging
from dataclasses import dataclass, field

from castore import catalog
from castore.backend.base import Backend
from castore.blobs import layout
from castore.canonical import Json, dumps, identify
from castore.computing.answers import Hit, Miss, Options
from castore.computing.notices import Notices
from castore.computing.rowwise import obstacle
from castore.computing.verdicts import Verdict, Verdicts
from castore.errors import CodeChangedError, DamagedError, NotFoundError
from castore.explain import changed_code
from castore.identity.request import Request
from castore.table.entry import Entry, find_entry
from castore.table.index import Kin, RowIndex
from castore.table.manifest import Manifest
from castore.table.result import LEAVES, is_only_arrays
from castore.table.tree import assemble

__all__ = ["Finder"]

_log = logging.getLogger("castore")

_REMEMBERED = 256  # manifests; most are a few KiB, none is more than 1 MiB
_INDEXES = 8


@dataclass(frozen=True)
class Finder:
    """Looks entries up, for one store in one process.

    Attributes
    ----------
    backend : Backend
        Where the store is.
    copy : bool
        Whether results are read into memory of their own and checked there.
    on_code_change : {"warn", "miss", "raise"}
        What becomes of a result whose function has other code now.
    notices : Notices
        What tells the user.
    verdicts : Verdicts
        What is known about functions.
    """

    backend: Backend
    copy: bool
    on_code_change: str
    notices: Notices
    verdicts: Verdicts
    _indexes: dict[str, RowIndex] = field(default_factory=dict, repr=False)
    _known: dict[str, tuple[object, Entry]] = field(default_factory=dict, repr=False)

    def find(self, request: Request, options: Options) -> Hit | Miss:
        """Answer `request` from the store, every byte checked, or say why not.

        A fault may be passing, or a manifest may just have been replaced, so what is missing or
        damaged is read once more before it counts.
        """
        try:
            with contextlib.suppress(DamagedError):
                return self._find(request, options)
            self.forget()
            return self._find(request, options)
        except DamagedError as error:
            _log.warning("%s: %s; computing it again", request.function.name, error)
            return Miss("damaged")

    def forget(self) -> None:
        """Forget the manifests read so far: something in the store was not as they say."""
        self._known.clear()

    def _find(self, request: Request, options: Options) -> Hit | Miss:
        entry = self.entry_of(request)
        if entry is None:
            return Miss("absent")
        if not self.is_current(entry, request):
            return Miss("code")
        if objection := self.objection(entry, request, options):
            return Miss(objection)
        if self.backend.near:
            _compare_rows(entry, request)
        value = assemble(entry.manifest.form, entry.arrays(), LEAVES[options.returns])
        return Hit(value, entry.nbytes, entry.manifest.compute_ns)

    def objection(self, entry: Entry, request: Request, options: Options) -> str:
        """Say why an entry may not answer its own request, as a miss does; else nothing."""
        if self.on_code_change != "warn" and self._changed(entry, request):
            return "code"
        if entry.manifest.together:
            verdict = self.verdict(request, options)
            if options.compare or verdict is None or not verdict.rowwise:
                return "together"
        return ""

    def is_current(self, entry: Entry, request: Request) -> bool:
        """Tell whether an entry may answer although the function may have other code now.

        Raises
        ------
        CodeChangedError
            If it has, and that is to be raised.
        """
        changed = self._changed(entry, request)
        if not changed or self.on_code_change == "miss":
            return not changed
        listed = ", ".join(changed)
        msg = f"{request.function.name} has changed since entry {entry.key[:8]} ({listed})"
        if self.on_code_change == "raise":
            raise CodeChangedError(f"{msg}: {_CHANGED}")
        self.notices.warn(f"{msg}, and its result is reused: {_CHANGED}")
        return True

    def _changed(self, entry: Entry, request: Request) -> list[str]:
        """Return the functions that have other code now; none of what was put without any."""
        now = request.function.recorded["functions"]
        then = _recorded_code(entry.manifest)
        return changed_code(then, now) if now and then and then != now else []

    def verdict(self, request: Request, options: Options) -> Verdict | None:
        """Return whether rows may be reused for a request, None where nobody knows yet."""
        if reason := obstacle(request, options):
            return Verdict(rowwise=False, by="caller", why=reason)
        return self.verdicts.known(request, options.rowwise)

    def kin(self, request: Request, loose: frozenset[str]) -> Kin:
        """Return which entries of the request's table may lend it rows.

        Parameters
        ----------
        request : Request
            Who asks.
        loose : frozenset of str
            Parts of the variant in which they may differ.
        """
        kept, loose = request.kinship(loose), loose | request.any_of
        code = request.function.recorded["functions"] if self.on_code_change == "miss" else None
        name = identify("kin", [kept, sorted(loose), code])
        return Kin(request.function.table, name, functools.partial(_lends, kept, loose, code))

    def index(self, kin: Kin) -> RowIndex:
        """Return the index of the rows that `kin` may lend; the last few are kept."""
        name = kin.table + kin.name
        index = self._indexes.get(name)
        if index is None:
            index = RowIndex(self.backend, kin, kept=not self.backend.url.startswith("memory:"))
            for old in list(self._indexes)[: max(0, len(self._indexes) + 1 - _INDEXES)]:
                self._indexes.pop(old, None)
            self._indexes[name] = index
        return index

    def entry_of(self, request: Request) -> Entry | None:
        """Return the entry of `request`, None if there is none."""
        found = self.entry_at(request.function.table, request.key)
        return found if found is not None or not request.any_of else self._similar(request)

    def _similar(self, request: Request) -> Entry | None:
        """Return the newest entry that differs from `request` in what it ignores only."""
        entries = [
            entry
            for entry in catalog.scan(self.backend, request.function.table)
            if request.answers(entry.manifest.derivation.get("entry"), entry.manifest.key)
        ]
        return max(entries, key=catalog.created, default=None)

    def entry_at(self, table: str, key: str) -> Entry | None:
        """Return an entry; a manifest already read is not read again.

        Only on a near store, where asking whether it was replaced costs no request. What its
        blobs hold is checked every time.
        """
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

    def entry(self, request: Request) -> Entry:
        """Return the entry of `request`.

        Raises
        ------
        NotFoundError
            If there is none.
        """
        entry = self.entry_of(request)
        if entry is None:
            msg = f"{self.backend.url} has no entry for {request.function.name} over these rows"
            raise NotFoundError(msg)
        return entry


def _lends(kept: Json, loose: frozenset[str], code: Json, manifest: Manifest) -> bool:
    """Tell whether an entry agrees in what its rows depend on beside the table."""
    entry = manifest.derivation.get("entry")
    if not isinstance(entry, dict) or identify("key", entry) != manifest.key:
        return False
    if "rows" not in entry or code not in (None, _recorded_code(manifest)):
        return False
    if manifest.together == "mixed" and "batch_size" in kept:
        return False
    if not is_only_arrays(manifest.form, ("array", "numbers")):
        return False
    found = {n: value for n, value in entry.get("variant", {}).items() if n not in loose}
    return dumps(found) == dumps(kept)  # 1 and True are equal to Python


def _compare_rows(entry: Entry, request: Request) -> None:
    """See that the rows are the request's own; on a near store that costs no request."""
    if entry.manifest.aligned and not entry.has_rows(request.row_ids):
        msg = f"{entry.manifest.name} holds other rows than its key says"
        raise DamagedError(msg)


def _recorded_code(manifest: Manifest) -> Json:
    return manifest.derivation.get("recorded", {}).get("functions")


_CHANGED = (
    "version= makes another table, force=True computes again, and "
    'castore.open(..., on_code_change="miss") does so by itself'
)
