"""From a folder in Zarr form to an entry."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from castore import tally
from castore.backend.base import Backend
from castore.blobs.blob import Payload
from castore.canonical import dumps, identify
from castore.digest import hexdigest
from castore.identity.function import Function
from castore.identity.request import identify_hierarchy
from castore.progress import Progress, shown
from castore.stats import Recorder
from castore.table.draft import Draft
from castore.table.entry import Entry
from castore.table.manifest import INLINE_ONE
from castore.table.writer import Writer, origin
from castore.threads import take_turns
from castore.zarrstore.files import payload_of
from castore.zarrstore.hierarchy import Hierarchy, look_over

__all__ = ["Publishing"]

_log = logging.getLogger("castore")


@dataclass(frozen=True)
class Publishing:
    """Publishes Zarr hierarchies into one store. Picklable: another process counts for itself.

    Attributes
    ----------
    backend : Backend
        Where the store is.
    recorder : Recorder
        What counts.
    """

    backend: Backend
    recorder: Recorder

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how to open the same place."""
        return _opened, (self.backend,)

    def publish(
        self, folder: Path, function: Function, inputs: Mapping[str, Any] | None, *,
        frozen: bool, force: bool = False, elapsed: int = 0, progress: Progress = None,
    ) -> Entry:  # fmt: skip
        """Publish the hierarchy in `folder` as one entry; durable when it returns.

        Of another hierarchy that was published under the key before, that one stays.

        Parameters
        ----------
        folder : Path
            In plain Zarr v3 form.
        function : Function
            What made it, identified.
        inputs : mapping or None
            What it was made from; None where it goes by its own content.
        frozen : bool
            Whether nobody writes to its files any more, so that they need not be copied.
        force : bool
            Replace what is there.
        elapsed : int
            How long it took to make, in nanoseconds.
        progress : bool or callable, optional
            As for `castore.Store.get_or_compute`; counts files.

        Raises
        ------
        ResultError
            If the folder has no Zarr v3 hierarchy.
        StoreError
            If the store cannot be written.
        """
        found = look_over(folder)
        writer = Writer(self.backend, function.table, function.derivation)
        with shown(progress, f"reading {folder.name}", len(found.chunks)) as update:
            payloads, digests = _payloads(found, writer.algorithm, frozen, update)
        content = "" if inputs is not None else _content(found, payloads, digests)
        request = identify_hierarchy(function, inputs, content)
        draft = Draft(writer.algorithm, dict(found.metadata), payloads, found.absent)
        header = {
            "table": function.table,
            "key": request.key,
            "rows": None,
            "aligned": False,
            "form": {"zarr": found.root},
            "derivation": request.documents(),
            "origin": origin(elapsed),
        }
        commit = writer.publish(draft, header, force=force)
        self.recorder.add("commits")
        self.recorder.add("bytes_stored", commit.stored)
        if commit.adopted:
            self.recorder.add("disagreements")
            name = function.name
            _log.warning("%s: another hierarchy was stored under the key before, and stays", name)
        return commit.entry


def _opened(backend: Backend) -> Publishing:
    return Publishing(backend, tally.recorder(backend.url))


def _payloads(
    found: Hierarchy, algorithm: str, frozen: bool, update: Any
) -> tuple[dict[str, Payload], dict[str, str]]:
    """Return what is to be stored, and the identity digest of each, by key."""
    files = list(found.chunks.items())
    payloads: dict[str, Payload] = {}
    digests: dict[str, str] = {}

    def read(number: int) -> None:
        key, path = files[number]
        payloads[key], digests[key] = payload_of(path, algorithm, INLINE_ONE, frozen=frozen)
        update(len(payloads))

    take_turns(read, len(files))
    return payloads, digests


def _content(found: Hierarchy, payloads: Mapping[str, Payload], digests: Mapping[str, str]) -> str:
    """Return the digest of all keys and their bytes."""
    listed = [[key, payloads[key].length, digests[key]] for key in found.chunks]
    for key, value in found.metadata.items():
        data = value.encode() if isinstance(value, str) else dumps(value)
        listed.append([key, len(data), hexdigest([data])])
    return identify("hierarchy", sorted(listed))
