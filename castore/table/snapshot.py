"""What an index knows, in memory and as a file.

::

    magic │ length of the document, u64 │ document, JSON │ records, 32 bytes each │ xxh3-128

    record: row id as two u64 · position, i64 · entry, u64       sorted by row id, each once
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from castore import arrays
from castore.backend import mapping
from castore.digest import hasher
from castore.identity.files.replacing import forget_unused, replace_file
from castore.table.entry import Schema
from castore.table.records import RECORD, Records

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["UNUSED", "Indexed", "Snapshot", "read", "write"]

#: Ninety days: a file that nobody used for so long goes when another is written.
UNUSED = 90 * 86400.0

_MAGIC = b"castore row index 1\n".ljust(24, b"\0")
_HEAD, _SEAL, _DAY = 32, 16, 86400.0


@dataclass(frozen=True)
class Indexed:
    """An entry that may lend rows.

    Attributes
    ----------
    key : str
        Its key.
    tag : str
        Another one where the manifest was written again.
    modified : float
        When that was, in seconds since the epoch by the server's clock.
    rows : int
        Number of its rows.
    square : bool
        Whether some column's second axis is as long as its first.
    schema : Schema
        What its rows are like; the same in all of an index.
    compute_ns : int
        How long they took to compute, in ns; 0 where unknown.
    functions : str
        Digest of the code that computed them, as the manifest records it.
    """

    key: str
    tag: str
    modified: float
    rows: int
    square: bool
    schema: Schema
    compute_ns: int
    functions: str

    @property
    def age(self) -> tuple[float, str]:
        """The larger, the newer; of a row held by several entries the newest counts."""
        return self.modified, self.key


@dataclass(frozen=True)
class Snapshot:
    """What an index knows; never changed.

    Attributes
    ----------
    entries : tuple of Indexed
        Those whose rows `records` has, by number.
    others : tuple of Indexed
        Those that would lend rows if they were of the same schema.
    refused, damaged : dict
        Tags of the other manifests, by key: not to lend rows, or damaged when last seen.
    """

    entries: tuple[Indexed, ...] = ()
    others: tuple[Indexed, ...] = ()
    refused: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    records: Records = field(default_factory=Records)

    @cached_property
    def tags(self) -> dict[str, str]:
        """Tags of all manifests seen, by key."""
        lending = {e.key: e.tag for e in (*self.entries, *self.others)}
        return {**lending, **self.refused, **self.damaged}

    @property
    def extent(self) -> tuple[int, int]:
        """Number of manifests a file keeps, and of rows."""
        return len(self.tags) - len(self.damaged), len(self.records.data)

    def those(self, listed: Mapping[str, str]) -> Snapshot:
        """Return what still holds where these are the tags; rows only if all entries stay."""

        def stay(tags: dict[str, str]) -> dict[str, str]:
            return {key: tag for key, tag in tags.items() if listed.get(key) == tag}

        def left(entries: tuple[Indexed, ...]) -> tuple[Indexed, ...]:
            return tuple(e for e in entries if listed.get(e.key) == e.tag)

        entries, others = left(self.entries), left(self.others)
        refused, damaged = stay(self.refused), stay(self.damaged)
        if len(entries) == len(self.entries):
            return Snapshot(entries, others, refused, damaged, self.records)
        return Snapshot((), entries + others, refused, damaged)


def write(path: Path, snapshot: Snapshot) -> None:
    """Make `snapshot` the contents of the file at `path`, but for what was damaged.

    Raises
    ------
    OSError
        If that fails; the file is then as it was.
    """
    schemas: list[Schema] = []
    listed = []
    for entry in (*snapshot.entries, *snapshot.others):
        if entry.schema not in schemas:
            schemas.append(entry.schema)
        listed.append({**vars(entry), "schema": schemas.index(entry.schema)})
    document = {
        "entries": listed,
        "lending": len(snapshot.entries),
        "refused": snapshot.refused,
        "schemas": [[schema.form, schema.columns] for schema in schemas],
    }
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % _HEAD)  # so that the records are aligned
    head = _MAGIC + len(text).to_bytes(8, "little") + text
    records = arrays.raw(snapshot.records.data)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace_file(path, b"".join([head, records, _digest(head, records)]), durable=False)
    forget_unused(path.parent, UNUSED)


def read(path: Path) -> Snapshot:
    """Return what the file at `path` has; its rows are mapped where that is safe.

    Raises
    ------
    OSError, ValueError
        If there is no such file, or it is not as it was written.
    """
    status = path.stat()
    if time.time() - status.st_mtime > _DAY:
        with contextlib.suppress(OSError):
            os.utime(path)  # used; see `forget_unused`
    copy = not mapping.is_safe(path.parent)
    data = mapping.open_private(str(path), status.st_size, copy=copy)
    if data is None or data[-_SEAL:].tobytes() != _digest(data[:-_SEAL]):
        msg = f"{path} is damaged"
        raise ValueError(msg)
    if data[: len(_MAGIC)].tobytes() != _MAGIC:
        msg = f"{path} is of another version"
        raise ValueError(msg)
    end = _HEAD + int.from_bytes(data[len(_MAGIC) : _HEAD].tobytes(), "little")
    document = json.loads(data[_HEAD:end].tobytes())
    records = data[end:-_SEAL].view(RECORD)
    records.flags.writeable = False
    schemas = [
        Schema(form, {name: (dtype, tuple(shape)) for name, (dtype, shape) in columns.items()})
        for form, columns in document["schemas"]
    ]
    entries = [Indexed(**{**e, "schema": schemas[e["schema"]]}) for e in document["entries"]]
    lending = document["lending"]
    return Snapshot(
        tuple(entries[:lending]),
        tuple(entries[lending:]),
        document["refused"],
        {},
        Records(records),
    )


def _digest(*pieces: Buffer) -> bytes:
    state = hasher()
    for piece in pieces:
        state.update(piece)
    return state.digest()
