"""Where things lie in a store: the only speller of object names.

::

    castore.json
    tables/<table id>/table.json
    tables/<table id>/entries/<key>.json
    tables/<table id>/rowwise/<code digest>.json
    blobs/<2 hex>/<digest>[~<generation>]
    leases/<key>/<epoch>
    segments/<table id>/<nonce>.json
    segments/<table id>/<nonce>.rows
    tombstones/<2 hex>/<run>
"""

from __future__ import annotations

import re

__all__ = [
    "BLOBS",
    "FORMAT",
    "LEASES",
    "TABLES",
    "blob",
    "entries",
    "entry",
    "is_identity",
    "is_temporary",
    "key_of",
    "lease",
    "lease_of",
    "leases",
    "segment",
    "segment_of",
    "segment_rows",
    "segments",
    "table",
    "table_of",
    "tombstones",
    "verdict",
]

FORMAT = "castore.json"
TABLES = "tables/"
BLOBS = "blobs/"
LEASES = "leases/"

_IDENTITY = re.compile(r"[0-9a-f]{32}")
_ENTRY = re.compile(r"tables/([0-9a-f]{32})/entries/([0-9a-f]{32})\.json")
_LEASE = re.compile(r"leases/([0-9a-f]{32})/(0|[1-9][0-9]*)")
_SEGMENT = re.compile(r"segments/([0-9a-f]{32})/([0-9a-f]{32})\.json")
_FILE = re.compile(r"tmp/[0-9]{1,20}-[0-9a-f]{16}")


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


def verdict(table_id: str, code: str) -> str:
    """Name of the document that says whether code computes a table row by row."""
    return f"tables/{table_id}/rowwise/{code}.json"


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


def leases(key: str) -> str:
    """Folder of the leases of a key."""
    return f"leases/{key}/"


def lease(key: str, epoch: int) -> str:
    """Name of a lease; each next epoch takes over from the one before."""
    return f"leases/{key}/{epoch}"


def lease_of(name: str) -> tuple[str, int] | None:
    """Key and epoch in the name of a lease, or None if `name` is none."""
    found = _LEASE.fullmatch(name)
    return (found[1], int(found[2])) if found else None


def segments(table_id: str) -> str:
    """Folder of what is sealed of rows of a table that are still being written."""
    return f"segments/{table_id}/"


def segment(table_id: str, nonce: str) -> str:
    """Name of the document that says which rows of a stream are sealed."""
    return f"segments/{table_id}/{nonce}.json"


def segment_rows(table_id: str, nonce: str) -> str:
    """Name of the row ids that a stream is to have when it ends."""
    return f"segments/{table_id}/{nonce}.rows"


def segment_of(name: str) -> tuple[str, str] | None:
    """Table id and nonce in the name of a segment's document, or None if `name` is none."""
    found = _SEGMENT.fullmatch(name)
    return (found[1], found[2]) if found else None


def is_temporary(name: object) -> bool:
    """Tell whether `name` is that of a file being written, which is no object."""
    return isinstance(name, str) and _FILE.fullmatch(name) is not None
