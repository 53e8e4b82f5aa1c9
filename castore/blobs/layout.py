"""Where things lie in a store: the only speller of object names.

::

    castore.json
    tables/<table id>/table.json
    tables/<table id>/entries/<key>.json
    blobs/<2 hex>/<digest>[~<generation>]
    tombstones/<2 hex>/<run>
"""

from __future__ import annotations

import re

__all__ = [
    "BLOBS",
    "FORMAT",
    "TABLES",
    "blob",
    "entries",
    "entry",
    "is_identity",
    "key_of",
    "table",
    "table_of",
    "tombstones",
]

FORMAT = "castore.json"
TABLES = "tables/"
BLOBS = "blobs/"

_IDENTITY = re.compile(r"[0-9a-f]{32}")
_ENTRY = re.compile(r"tables/([0-9a-f]{32})/entries/([0-9a-f]{32})\.json")


def is_identity(text: object) -> bool:
    """Tell whether `text` is a table id or a key: 32 lowercase hex digits."""
    return isinstance(text, str) and _IDENTITY.fullmatch(text) is not None


def table(table_id: str) -> str:
    """Name of the table document."""
    return f"tables/{table_id}/table.json"


def entries(table_id: str) -> str:
    """Folder of a table's manifests."""
    return f"tables/{table_id}/entries/"


def entry(table_id: str, key: str) -> str:
    """Name of an entry's manifest."""
    return f"tables/{table_id}/entries/{key}.json"


def table_of(name: str) -> str | None:
    """Table id in the name of a manifest, or None if `name` is none."""
    found = _ENTRY.fullmatch(name)
    return found[1] if found else None


def key_of(name: str) -> str | None:
    """Key in the name of a manifest, or None if `name` is none."""
    found = _ENTRY.fullmatch(name)
    return found[2] if found else None


def blob(digest: str, generation: int) -> str:
    """Name of a blob; generations after the first replace names that were condemned."""
    suffix = f"~{generation}" if generation else ""
    return f"blobs/{digest[:2]}/{digest}{suffix}"


def tombstones(digest: str) -> str:
    """Folder of the documents that condemn names with the prefix of `digest`."""
    return f"tombstones/{digest[:2]}/"
