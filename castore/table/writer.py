"""The only publisher: data before pointer, then look.

1. Blobs are put, each durable before the next step.
2. The manifest is created; that is the commit. ``replace`` puts it unconditionally.
3. The tombstones of its blobs are listed. A condemned name is never used again: its bytes are
   put under the next generation, the manifest is replaced, and the writer looks again.
4. Only then is the entry acknowledged.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import platform
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from castore.backend.base import Backend, Staged
from castore.blobs import blob, layout
from castore.blobs.blob import BlobRef, Bytes, Payload
from castore.canonical import Json, seal, unseal
from castore.digest import ALGORITHMS
from castore.errors import BackendError, DamagedError, FormatError, ResultError
from castore.points import reach
from castore.table.draft import Draft
from castore.table.entry import Entry, find_entry, manifests
from castore.table.keymap import Chunk, KeyMap
from castore.table.manifest import (
    FORMAT,
    INLINE_ALL,
    INLINE_ONE,
    MAX_KEYS,
    MAX_NBYTES,
    Manifest,
)
from castore.threads import together
from castore.version import __version__

__all__ = ["Commit", "Writer", "initialise", "origin", "read_format"]

_log = logging.getLogger("castore")

#: The digests of far stores whose documents were seen by this process: to look costs requests.
_begun: dict[tuple[str, str], str] = {}
#: How often a commit meets a condemned name before it gives up.
_RESCUES = 16


@dataclass(frozen=True)
class Commit:
    """How a commit ended.

    Attributes
    ----------
    entry : Entry
        What the key now leads to.
    adopted : bool
        Whether another writer's different bytes were there first, and stay.
    stored : int
        Bytes of blobs written.
    """

    entry: Entry
    adopted: bool
    stored: int


class Writer:
    """Publishes entries of one table.

    Parameters
    ----------
    backend : Backend
        Where to.
    table : str
        Table id.
    derivation : dict
        What the table id is the digest of; stored for people.

    Raises
    ------
    StoreError
        At once, if the store cannot be written or is of another format: trouble that can be
        known before a long computation is raised before it.
    """

    def __init__(self, backend: Backend, table: str, derivation: Json) -> None:
        self.backend = backend
        self.algorithm = _begun.get((backend.url, table)) or _begin(backend, table, derivation)
        if not backend.near:
            _begun[backend.url, table] = self.algorithm
        reach("commit.begun")

    def publish(self, draft: Draft, header: Mapping[str, Json], *, force: bool = False) -> Commit:
        """Publish `draft` under ``header["key"]``; durable and acknowledged when it returns.

        Parameters
        ----------
        draft : Draft
            What to publish.
        header : mapping
            The other fields of `castore.table.manifest.Manifest`.
        force : bool
            Replace the manifest that is there instead of yielding to it.
        """
        put = functools.partial(blob.put, self.backend)
        large = {key: p for key, p in draft.payloads.items() if p.length > INLINE_ONE}
        once = {payload.digest: payload for payload in large.values()}  # equal ones: one blob
        with self.backend.upload() as staged:
            (manifest, small), *puts = together(
                lambda: self._stage(draft, header, staged, large),
                *(functools.partial(put, payload) for payload in once.values()),
            )
            stored = small + sum(written for _, written in puts)
            reach("commit.blobs-stored")
            standing = self._commit(manifest, staged, force=force)
        reach("commit.published")
        standing, rescued = self._look(standing, manifest, draft.payloads)
        reach("commit.looked")
        entry = Entry(standing, self.backend)
        return Commit(entry, not manifest.same_content(standing), stored + rescued)

    def _stage(
        self, draft: Draft, header: Mapping[str, Json], staged: Staged, large: Collection[str]
    ) -> tuple[Manifest, int]:
        """Write the manifest, as yet without a name, while the blobs in `large` are put.

        Also puts what is neither among those nor inline; returns how many bytes that took.
        """
        draft.complete()
        inline = _inlined(draft.payloads)
        blobs = {key: p for key, p in draft.payloads.items() if key not in inline}
        small = {payload.digest: payload for key, payload in blobs.items() if key not in large}
        puts = together(*(functools.partial(blob.put, self.backend, p) for p in small.values()))
        chunks: dict[str, Chunk] = dict(inline)
        for key, payload in blobs.items():
            chunks[key] = BlobRef(payload.digest, 0, payload.length, payload.parts)
        manifest, data, mapped = self._written(
            Manifest(
                **header,
                nonce=os.urandom(16).hex(),
                algorithm=draft.algorithm,
                keys=KeyMap(draft.metadata, chunks, draft.absent),
            )
        )
        staged.write(data)
        staged.sync()
        return manifest, mapped + sum(written for _, written in puts)

    def _written(self, manifest: Manifest, generation: int = 0) -> tuple[Manifest, bytes, int]:
        """Return `manifest` as it will stand, its bytes, and how many bytes of a map were put.

        Parameters
        ----------
        manifest : Manifest
            What to write.
        generation : int
            Of the map of its keys, where that is a blob.

        Raises
        ------
        ResultError
            If it is too long whatever is done.
        """
        data, stored = b"", 0
        if len(manifest.keys) <= MAX_KEYS:
            manifest = replace(manifest, map=None)
            data = manifest.to_bytes()
        if not 0 < len(data) <= MAX_NBYTES:
            payload = Bytes([manifest.keys.to_bytes()], manifest.algorithm)
            ref, stored = blob.put(self.backend, payload, generation)
            manifest = replace(manifest, map=replace(ref, parts=payload.parts))
            data = manifest.to_bytes()
        if len(data) > MAX_NBYTES:
            msg = (
                f"the manifest would be {len(data):,} bytes, {MAX_NBYTES:,} are allowed: "
                "pass long parameters as arrays"
            )
            raise ResultError(msg)
        return manifest, data, stored

    def _commit(self, manifest: Manifest, staged: Staged, *, force: bool) -> Manifest:
        """Make the manifest the entry; return the one that stands."""
        if not force:
            if staged.finish_new(manifest.name):
                return manifest
            if (winner := self._winner(manifest)) is not None:
                for name in (*(ref.name for ref in winner.blobs), winner.name):
                    self.backend.settle(name)
                return winner
        staged.finish(manifest.name)
        return manifest

    def _winner(self, manifest: Manifest) -> Manifest | None:
        """Return the manifest that was there first, or None if it leads nowhere."""
        try:
            found = find_entry(self.backend, manifest.table, manifest.key)
        except DamagedError:
            return None
        if found is None:
            return None
        whole = all(
            (seen := self.backend.stat(ref.name)) is not None and seen.size == ref.length
            for ref in found.manifest.blobs
        )
        return found.manifest if whole else None

    def _look(
        self, standing: Manifest, own: Manifest, payloads: Mapping[str, Payload]
    ) -> tuple[Manifest, int]:
        """Rescue condemned blobs until none is; return the manifest that stands.

        What another writer published is rescued with one's own bytes, so it becomes one's own.
        """
        stored = 0
        for _ in range(_RESCUES):
            forbidden = blob.condemned(self.backend, standing.blobs)
            if not forbidden:
                return standing, stored
            chunks: dict[str, Chunk] = dict(own.chunks)
            for key, chunk in own.chunks.items():
                if isinstance(chunk, BlobRef) and chunk.name in forbidden:
                    generation = chunk.generation + 1
                    chunks[key] = replace(chunk, generation=generation)
                    stored += blob.put(self.backend, payloads[key], generation)[1]
            generation = own.map.generation + 1 if own.map is not None else 0
            own = replace(own, keys=replace(own.keys, chunks=chunks), nonce=os.urandom(16).hex())
            own, data, mapped = self._written(own, generation)
            standing, stored = own, stored + mapped
            self.backend.put(own.name, [data])
        msg = (
            f"{self.backend.url}: a tombstone condemns every name for {standing.blobs[0].digest}; "
            f"look at {layout.tombstones(standing.blobs[0].digest)}"
        )
        raise BackendError(msg)


def _begin(backend: Backend, table: str, derivation: Json) -> str:
    """Make store and table unless they are there; return what names the blobs."""
    backend.check_writable()
    algorithm = initialise(backend)
    name = layout.table(table)
    if backend.stat(name) is None:
        document = {"derivation": derivation, "format": FORMAT, "table": table}
        backend.create(name, [seal(document)])
    return algorithm


def _inlined(payloads: Mapping[str, Payload]) -> dict[str, bytes]:
    """Return the values kept in the manifest itself: the smallest first, while there is room."""
    inline: dict[str, bytes] = {}
    room = INLINE_ALL
    for key, payload in sorted(payloads.items(), key=lambda item: (item[1].length, item[0])):
        if payload.length <= min(INLINE_ONE, room):
            inline[key] = payload.to_bytes()
            room -= payload.length
    return inline


def read_format(backend: Backend) -> str | None:
    """Return the blob digest of the store, or None if there is no store yet.

    Raises
    ------
    DamagedError
        If it is damaged.
    FormatError
        If it is of a newer format, or has flags this castore does not know.
    """
    data = backend.get(layout.FORMAT)
    if data is None:
        return None
    document = unseal(data, f"{backend.url}: {layout.FORMAT}")
    algorithm = document.get("digest_algorithm")
    if (
        document.get("format") != FORMAT
        or document.get("flags") != []
        or algorithm not in ALGORITHMS
    ):
        msg = (
            f"{backend.url}: a store of format {document.get('format')!r} with the flags "
            f"{document.get('flags')!r} and digest {algorithm!r}; this castore writes format "
            f"{FORMAT}: install a newer castore"
        )
        raise FormatError(msg)
    return str(algorithm)


def initialise(backend: Backend, algorithm: str | None = None) -> str:
    """Make `backend` a store unless it is one; return its blob digest.

    Raises
    ------
    FormatError
        If it is a store of another format, or names its blobs by another digest.
    """
    try:
        found = read_format(backend)
    except DamagedError as error:
        found = _remembered(backend) or algorithm or ALGORITHMS[0]
        _log.warning("%s; written again with the digest %s", error, found)
        backend.put(layout.FORMAT, [_format_document(found)])
    if found is None:
        backend.create(layout.FORMAT, [_format_document(algorithm or ALGORITHMS[0])])
        found = read_format(backend) or ALGORITHMS[0]
    if algorithm is not None and algorithm != found:
        msg = f"{backend.url} names its blobs by {found}, not {algorithm}: choose another place"
        raise FormatError(msg)
    return found


def _format_document(algorithm: str) -> bytes:
    return seal({"digest_algorithm": algorithm, "flags": [], "format": FORMAT})


def _remembered(backend: Backend) -> str | None:
    """Return the blob digest that the store's manifests name; one of a newer format raises."""
    for name in manifests(backend):
        with contextlib.suppress(DamagedError):
            entry = find_entry(backend, layout.table_of(name) or "", layout.key_of(name) or "")
            if entry is not None:
                return entry.manifest.algorithm
    return None


def origin(compute_ns: int) -> dict[str, Json]:
    """Who computes here, for people: recorded, never compared."""
    return {
        "compute_ns": compute_ns,
        "host": platform.node(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "writer": f"castore {__version__}",
    }
