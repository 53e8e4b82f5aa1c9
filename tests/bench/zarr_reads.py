"""What castore keeps read through zarr, beside zarr's own files and castore's own readers."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import zarr
from features import Matrix
from harness import Case, Options, interleave
from results import Group, Section, against
from zarr.storage import LocalStore

import castore
from castore.table.gather import allocate, gather
from castore.zarrstore.held import HeldEntry

__all__ = ["NAME", "measure"]

NAME = "zarr"
_FILES, _MEMORY = "zarr over plain files", "numpy gather from memory"
_CHUNK = (1024, 2048)
_SIDE = 224
_BURST = 20
_IDENTITY: dict[str, Any] = {"dataset_id": "bench@1", "model": None}


def measure(options: Options) -> Section:
    """Time whole arrays and single rows."""
    store = castore.open(options.scratch / "zarr")
    groups = [
        *_whole_arrays(options, store),
        *_coded_hits(options, store),
        _single_rows(options, store),
    ]
    note = (
        "Warm page cache. castore opens the entry and checks every byte each time, where whole "
        "arrays are read; where rows are, once a mapping, and its own gather each time. "
        "Plain files are checked by nobody."
    )
    return Section(NAME, "Read through zarr", "speed ÷ peer's", "higher", groups, note)


def _whole_arrays(options: Options, store: castore.Store) -> list[Group]:
    """Compare an array of zarr's own making, committed and not."""
    matrix = Matrix.of(1_000 if options.quick else 5_000)
    groups = []
    for name, compressors in (("not compressed", None), ("zarr's default compression", "auto")):
        folder = options.scratch / f"plain-{compressors}"
        zarr.create_array(
            LocalStore(folder), data=matrix.features, chunks=_CHUNK, compressors=compressors
        )
        info = store.import_zarr(folder, f"array-{compressors}")
        cases = [
            Case("castore", partial(_read_entry, store, info.key)),
            Case(_FILES, partial(_read, LocalStore(folder, read_only=True))),
        ]
        samples = interleave(cases, options.rounds_of(15, 3))
        title = f"{matrix.title}, 8 MB chunks, {name}"
        groups.append(against(title, samples, {_FILES: 1.0}, better="higher"))
    return groups


def _read_entry(store: castore.Store, key: str) -> Any:
    return _read(store.zarr_store(key))


def _read(store: Any) -> Any:
    return zarr.open_array(store, mode="r")[:]


def _coded_hits(options: Options, store: castore.Store) -> list[Group]:
    """Compare hits of coded columns with zarr reading the same files."""
    matrix = Matrix.of(1_000 if options.quick else 5_000)
    rounded = np.maximum(matrix.features, 0).astype(np.float16).astype(np.float32)
    groups = []
    for codec in ("none", "zstd", "blosc"):
        info = store.put(list(range(len(rounded))), rounded, "coded", codec=codec, **_IDENTITY)
        entry = store.entry(info.key)
        plain = entry.export(options.scratch / f"coded-{codec}")
        cases = [
            Case("castore", partial(_hit, store, info.key)),
            Case(_FILES, partial(_read, LocalStore(plain / "result", read_only=True))),
        ]
        samples = interleave(cases, options.rounds_of(9, 2))
        share = entry.manifest.nbytes / rounded.nbytes
        title = f"features after a ReLU, codec {codec}: {share:.0%} of their size"
        groups.append(against(title, samples, {}, better="higher"))
    return groups


def _hit(store: castore.Store, key: str) -> Any:
    return store.entry(key).arrays()["result"]


def _single_rows(options: Options, store: castore.Store) -> Group:
    """Compare one image at a time, in random order, by castore's own gather and through zarr."""
    rows = 100 if options.quick else 1_000
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (rows, _SIDE, _SIDE, 3), np.uint8)
    info = store.put(list(range(rows)), images, "images", **_IDENTITY)
    entry = store.entry(info.key)
    plain = LocalStore(entry.export(options.scratch / "images") / "result", read_only=True)
    order = itertools.cycle(draw.permutation(rows).tolist())
    cases = [
        Case("castore", partial(_gathered, entry, order)),
        Case("zarr over castore", _one_of(entry.zarr()["result"], order)),
        Case(_FILES, _one_of(zarr.open_array(plain, mode="r"), order)),
        Case(_MEMORY, _one_of(images, order)),
    ]
    samples = interleave(cases, options.rounds_of(10, 2), burst=_BURST)
    title = f"one of {rows:,} images of {_SIDE} by {_SIDE}, at random"
    return against(title, samples, {}, better="higher")


def _gathered(entry: HeldEntry, order: Any) -> Any:
    """Do what a table does for one row whose place the index gave."""
    into = allocate(entry.schema, 1)
    row = np.array([next(order)])
    ids = entry.row_ids()
    assert ids is not None
    gather(entry, row, ids[row], into, np.zeros(1, np.int64))
    return into


def _one_of(array: Any, order: Any) -> Callable[[], Any]:
    return lambda: np.array(array[next(order)])
