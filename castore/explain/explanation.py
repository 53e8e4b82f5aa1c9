"""Why a request is answered from the store, in part or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from castore.backend.base import Backend
from castore.catalog import EntryInfo, entry_info
from castore.errors import StoreError
from castore.explain.advice import advice
from castore.explain.candidate import Candidate, Subject, compare
from castore.explain.difference import Difference, brief, in_line
from castore.explain.nearest import GLANCE, SEARCH, nearest
from castore.identity.request import Request
from castore.table.entry import Entry

__all__ = ["Comparison", "Explanation", "compare_entries", "explain", "short_reason"]

_COLUMN = 12
_LISTED = 8


@dataclass(frozen=True)
class Explanation:
    """Why a call is answered from the store, or is not. ``print`` shows it as text.

    Attributes
    ----------
    kind : {"hit", "partial", "miss"}
        Whether all rows, some or none come from the store.
    name : str
        What messages call the function.
    key, table : str
        What was looked up, 32 hex digits each.
    rows : int or None
        Samples asked for; None where the result belongs to no list of rows.
    known, missing : int or None
        How many of them come from the store, and how many have to be computed.
    sources : list of (str, int)
        The entries rows come from, by key, with how many of them.
    nearest : EntryInfo or None
        Of a hit the entry that answers, if it is one; else the entry most like what was asked
        for, None if nothing is like it.
    differences : list of Difference
        In what the call differs from that entry. Of a hit, what `ignore` allowed.
    recorded : list of Difference
        What differs and is in no key: versions, device, code under a suffix, what is not keyed.
    advice : list of str
        What to write for that entry to answer.
    reason : str
        Why rows that other entries have are not reused, or what that depends on; may be empty.
    """

    kind: str
    name: str
    key: str
    table: str
    rows: int | None
    known: int | None
    missing: int | None
    sources: list[tuple[str, int]] = field(default_factory=list)
    nearest: EntryInfo | None = None
    differences: list[Difference] = field(default_factory=list)
    recorded: list[Difference] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)
    reason: str = ""

    @property
    def short(self) -> str:
        """One line: ``"absent; nearest 3f2a91c0 differs in batch_size 64 → 32"``."""
        if self.kind != "miss":
            return self._headline()
        if self.reason and self.nearest is not None and self.nearest.key == self.key:
            return self.reason.partition(":")[0]
        return _short(self.nearest.key if self.nearest else None, self.differences)

    def __str__(self) -> str:
        """Return all of it, a line a fact."""
        lines, last = [self._headline()], ""
        for label, text in self._facts():
            lines.append(f"{'' if label == last else label:<{_COLUMN}}{text}")
            last = label
        return "\n".join(lines)

    def _headline(self) -> str:
        over = "" if self.rows is None else f" over {_rows(self.rows)}"
        if self.kind == "partial":
            return (
                f"partial hit: {self.name}{over}: {self.known:,} stored in "
                f"{len(self.sources):,} {'entry' if len(self.sources) == 1 else 'entries'}, "
                f"{self.missing:,} missing"
            )
        return f"{self.kind}: {self.name}{over} is {'' if self.kind == 'hit' else 'not '}stored"

    def _facts(self) -> Iterator[tuple[str, str]]:
        """Yield what there is to say, each under a label."""
        for key, rows in self.sources[:_LISTED]:
            yield "rows from", f"{brief(key)}: {_rows(rows)}"
        if len(self.sources) > _LISTED:
            yield "rows from", f"and {len(self.sources) - _LISTED:,} more"
        if self.nearest is not None:
            yield "entry" if self.kind == "hit" else "nearest", _entry(self.nearest)
        elif self.kind == "miss":
            yield "nearest", "nothing like it was found"
        for label, found in (
            ("ignored" if self.kind == "hit" else "differs in", self.differences),
            ("recorded", self.recorded),
            ("advice", self.advice),
            ("reuse" if self.known else "not reused", self._why_not_by_rows()),
        ):
            yield from ((label, str(one)) for one in found)

    def _why_not_by_rows(self) -> list[str]:
        """Return the reason where it matters: the function has these rows, or others."""
        paths = [difference.path for difference in self.differences]
        others = not paths or "rows" in paths
        own = self.nearest is not None and self.nearest.table == self.table
        return [self.reason] if self.reason and own and others else []


@dataclass(frozen=True)
class Comparison:
    """Two entries side by side.

    Attributes
    ----------
    before : EntryInfo or None
        The first; None if nothing is like the second.
    after : EntryInfo
        The second.
    differences, recorded : list of Difference
        In what they differ: what is keyed, and what is in no key.
    advice : list of str
        What a call for the second would have needed for the first to answer.
    """

    before: EntryInfo | None
    after: EntryInfo
    differences: list[Difference]
    recorded: list[Difference]
    advice: list[str]


def explain(
    backend: Backend,
    request: Request,
    *,
    entry: Entry | None = None,
    known: int = 0,
    sources: Sequence[tuple[str, int]] = (),
    reason: str = "",
) -> Explanation:
    """Explain what becomes of `request`.

    Parameters
    ----------
    backend : Backend
        The store.
    request : Request
        What is asked for.
    entry : Entry, optional
        The entry that answers it, if one does.
    known : int
        Else, how many of its rows other entries answer.
    sources : sequence of (str, int)
        Those entries by key, with the number of rows taken from each.
    reason : str
        Why none do.

    Raises
    ------
    StoreError
        If the store cannot be read.
    """
    subject = Subject.of_request(request)
    rows = request.rows
    whole = entry is not None or (known > 0 and known == rows)
    kind = "hit" if whole else "partial" if known else "miss"
    if entry is not None:
        found: Candidate | None = compare(entry, subject).counted(subject, SEARCH.rows)
    else:
        found = None if whole else nearest(backend, subject, SEARCH)
    explained = Explanation(
        kind=kind,
        name=subject.name,
        key=subject.key,
        table=subject.table,
        rows=rows,
        known=rows if whole else known,
        missing=None if rows is None else rows - (rows if whole else known),
        sources=list(sources),
        reason=reason,
    )
    return explained if found is None else _beside(explained, found, subject)


def _beside(explained: Explanation, found: Candidate, subject: Subject) -> Explanation:
    told = [] if explained.kind == "hit" else _advice(found, subject)
    return replace(
        explained,
        nearest=entry_info(found.entry),
        differences=found.differences,
        recorded=found.recorded(subject),
        advice=told,
    )


def _advice(found: Candidate, subject: Subject) -> list[str]:
    return list(advice(found.differences, found.entry.manifest.derivation, subject.documents))


def compare_entries(entry: Entry, other: Entry | None = None) -> Comparison:
    """Compare `other`, or else the entry of the store that is most like it, with an entry.

    Raises
    ------
    StoreError
        If the store cannot be read.
    """
    subject = Subject.of_entry(entry)
    if other is None:
        found = nearest(entry.backend, subject, SEARCH, besides=entry.key)
    else:
        found = compare(other, subject).counted(subject, SEARCH.rows)
    after = entry_info(entry)
    if found is None:
        return Comparison(None, after, [], [], [])
    return Comparison(
        entry_info(found.entry),
        after,
        found.differences,
        found.recorded(subject),
        _advice(found, subject),
    )


def short_reason(backend: Backend, request: Request) -> str:
    """Return why `request` misses, for a log line: quick, and never an error.

    Only on a near store, where reading a few documents costs no request.
    """
    if not backend.near:
        return "absent"
    try:
        found = nearest(backend, Subject.of_request(request), GLANCE)
    except StoreError:
        return "absent"
    return _short(found.entry.key if found else None, found.differences if found else [])


def _short(key: str | None, found: Sequence[Difference]) -> str:
    if key is None:
        return "absent; nothing like it was found"
    return f"absent; nearest {brief(key)} differs in {in_line(found) or 'nothing that is keyed'}"


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"


def _entry(info: EntryInfo) -> str:
    over = "" if info.rows is None else f"{_rows(info.rows)}, "
    return f"{brief(info.key)}: {over}computed in {info.compute_seconds:.3g} s"
