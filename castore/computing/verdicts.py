"""Whether a function computes each row from its sample alone: judged once, and kept.

The judgement is of a table and of the function's code. A probe makes it, an audit can overturn
it (`castore.computing.partly`). It lies in the store, so that it is made once for all who share it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from castore.backend.base import Backend
from castore.blobs import layout
from castore.canonical import Json, identify, seal, unseal
from castore.errors import DamagedError
from castore.identity.request import Request

__all__ = ["Verdict", "Verdicts"]

_FORMAT = 1


@dataclass(frozen=True)
class Verdict:
    """Whether rows of a table may be reused.

    Attributes
    ----------
    rowwise : bool
        Whether a row depends on its sample alone, as far as was seen.
    by : {"probe", "audit", "caller"}
        Who found that.
    why : str
        What was seen.
    """

    rowwise: bool
    by: str
    why: str


@dataclass(frozen=True)
class Verdicts:
    """The verdicts of one store.

    Attributes
    ----------
    backend : Backend
        Where they lie.
    """

    backend: Backend
    _own: dict[str, Verdict] = field(default_factory=dict, repr=False)

    def known(self, request: Request, rowwise: bool | str) -> Verdict | None:
        """Return what holds for a request: what its caller says, save against an audit's finding.

        None where nobody found anything, or what was written is damaged.
        """
        found = self._read(request) or self._own.get(_name(request))
        if rowwise is True and (found is None or found.by != "audit"):
            return Verdict(rowwise=True, by="caller", why="rowwise=True")
        return found

    def keep(self, request: Request, verdict: Verdict, *, writing: bool) -> None:
        """Keep a verdict; one against reuse replaces what is there, one for it does not.

        Parameters
        ----------
        request : Request
            Whose function was judged.
        verdict : Verdict
            What was found.
        writing : bool
            Whether the store can be written; if not, this process remembers.
        """
        name, data = _name(request), [seal(_document(request, verdict))]
        if not writing:
            self._own[name] = verdict
            return
        stands = verdict.rowwise and (
            self.backend.create(name, data) or self._read(request) is not None
        )
        if not stands:
            self.backend.put(name, data)

    def _read(self, request: Request) -> Verdict | None:
        name = _name(request)
        data = self.backend.get(name)
        if data is None:
            return None
        try:
            found = unseal(data, name)
            verdict = Verdict(found["rowwise"] is True, str(found["by"]), str(found["why"]))
        except (DamagedError, KeyError):
            return None
        return verdict if found == _document(request, verdict) else None


def _document(request: Request, verdict: Verdict) -> dict[str, Json]:
    return {
        "by": verdict.by,
        "format": _FORMAT,
        "functions": request.function.recorded["functions"],
        "rowwise": verdict.rowwise,
        "table": request.function.table,
        "why": verdict.why,
    }


def _name(request: Request) -> str:
    code = identify("functions", request.function.recorded["functions"])
    return layout.verdict(request.function.table, code)
