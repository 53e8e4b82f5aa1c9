"""One part of a derivation in which two entries differ, as a person reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from castore.blobs import layout
from castore.canonical import Json
from castore.readable import readable

__all__ = ["NOTHING", "Difference", "brief", "in_line"]

#: The document of a part that is not there; no value's document is empty.
NOTHING: Json = {}

_DIGITS = 8
_VALUE = 60
_LISTED = 3
#: What it means that nothing is said.
_UNSET = {"batch_size": "none", "collate": "torch's own", "model": "none"}
#: Parts whose text is castore's own or a name, and stands without quotes.
_WORDS = ("cudnn.", "device", "left to ", "model", "not keyed.", "numeric.", "suffix", "versions.")
_NAMES = (".dataset", ".dataset_id")


@dataclass(frozen=True)
class Difference:
    """One part in which what is asked for differs from what is stored.

    Attributes
    ----------
    path : str
        Which part: ``"batch_size"``, ``"params.layer"``, ``"fn.k"``, ``"source.transform"``.
    before, after : Json
        Its documents, stored and asked for, as `castore.catalog.EntryInfo.derivation` has them;
        ``{}`` where one of them has no such part.
    note : str
        What there is to say beside.
    """

    path: str
    before: Json
    after: Json
    note: str = ""

    @property
    def texts(self) -> tuple[str, str]:
        """Both documents as Python would write them; digests by their first digits."""
        return _shown(self.path, self.before), _shown(self.path, self.after)

    @property
    def short(self) -> str:
        """The note of rows, of other parts both texts: ``"batch_size 64 → 32"``."""
        if self.path == "rows" and self.note:
            return f"rows: {self.note}"
        return f"{self.path} {' → '.join(self.texts)}"

    def __str__(self) -> str:
        """Return all of it: ``"model 0f3a5c1e → 8d2b4e6f (other weights or structure)"``."""
        note = f" ({self.note})" if self.note and self.path != "rows" else ""
        return f"{self.short}{note}"


def in_line(found: Sequence[Difference]) -> str:
    """Return differences in one line, beyond the third only their number."""
    more = len(found) - _LISTED
    return ", ".join(d.short for d in found[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def brief(digest: str) -> str:
    """Return the digits of a digest that tell it from most others."""
    return digest[:_DIGITS]


def _shown(path: str, document: Json) -> str:
    text = _text(path, document)
    return text if len(text) <= _VALUE else f"{text[:_VALUE]}… ({len(text):,} characters)"


def _text(path: str, document: Json) -> str:
    if document == NOTHING:
        return "default" if path.startswith("numeric.") else "absent"
    if document is None and path in _UNSET:
        return _UNSET[path]
    if path == "rows":
        return f"{document[0]:,}"
    if path == "hierarchy":
        return "by its content" if "content" in document else "by its inputs"
    if ".functions." in f".{path}":
        return f"code {document if document.startswith('as ') else brief(document)}"
    if layout.is_identity(document):
        return brief(document)
    if isinstance(document, str) and (path.startswith(_WORDS) or path.endswith(_NAMES)):
        return document or "none"
    if isinstance(document, dict):
        return _summary(document) or readable(document)
    return readable(document)


def _summary(document: dict[str, Json]) -> str:
    """Return what a source, a custom collate function or several models are called."""
    if "functions" in document and "dataset" not in document:
        return "code " + ", ".join(brief(code) for code in document["functions"].values())
    if len(document) > 1 and all(layout.is_identity(part) for part in document.values()):
        return ", ".join(brief(part) for part in document.values())
    name = document.get("dataset_id", document.get("dataset"))
    return name if isinstance(name, str) else ""
