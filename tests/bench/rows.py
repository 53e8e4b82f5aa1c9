"""Rows out of entries: where they are, and getting them, against memory itself."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Case, Options, interleave
from results import Group, Section, against
from torch.utils.data import DataLoader, Subset, TensorDataset

import castore
from castore.backend.local import LocalBackend
from castore.identity.rows import RowIds, from_integers
from castore.table.draft import Draft
from castore.table.entry import find_entry
from castore.table.gather import allocate, gather
from castore.table.index import Kin, RowIndex
from castore.table.writer import Writer, initialise, origin

__all__ = ["NAME", "measure", "partial_hit"]

NAME = "rows"
_ALLOWED, _MEMORY = "what is allowed: 50 ms", "numpy gather from memory"
_GOALS = {_ALLOWED: 1.0, _MEMORY: 1.15}
_PARTIAL_GOALS = {_MEMORY: 1.3}
_KEY, _TABLE = "0" * 32, "1" * 32
_KIN = Kin(_TABLE, "2" * 32, lambda _: True)
_STATE = "XDG_STATE_HOME"


def measure(options: Options) -> Section:
    """Time look-ups in a row index and gathers from an entry."""
    with _state(options.scratch / "state"):
        groups = [_look_ups(options), *_gathers(options), _partial_hits(options)]
    note = (
        "Names are vouched integers. A gather opens the entry, compares row ids, checks every byte "
        "it copies and copies into fresh memory, as numpy's does."
    )
    return Section(NAME, "Rows of stored entries", "time ÷ peer's", "lower", groups, note)


def partial_hit(
    store: castore.Store,
    loader: Any,
    fn: Callable[[Any], Any],
    options: Options,
    **identity: Any,
) -> Group:
    """Time a request of which all rows but one come from one entry, as often as it is repeated.

    The missing row is computed before, and stored as an entry of its own; so what is timed is
    everything but its computation.

    Parameters
    ----------
    store : Store
        With an entry ``"partial"`` of all rows of `loader` but one.
    loader : DataLoader
        Over the rows that are asked for.
    fn : callable
        A row-wise function that returns one array.
    options : Options
        How often to measure.
    **identity
        What says which rows these are: ``dataset_id=`` and the like.
    """
    ask = partial(store.get_or_compute, loader, fn, "partial", rowwise=True, **identity)
    matrix = np.array(ask())
    picks = np.arange(len(matrix))
    cases = [Case("castore", ask), Case(_MEMORY, partial(matrix.__getitem__, picks))]
    samples = interleave(cases, options.rounds_of(21, 3))
    title = f"a partial hit: {len(matrix) - 1:,} of {len(matrix):,} rows"
    return against(title, samples, _PARTIAL_GOALS, better="lower")


def _look_ups(options: Options) -> Group:
    rows = 100_000 if options.quick else 1_000_000
    place = options.scratch / "indexed"
    backend = _store(place, {"x": np.zeros(rows, np.uint8)}, np.arange(rows))
    wanted = _ids(np.random.default_rng(0).permutation(rows))
    index = RowIndex(backend, _KIN)
    index.refresh()
    known = {row.tobytes(): number for number, row in enumerate(_ids(np.arange(rows)))}
    halves = np.sort(_ids(np.arange(rows)).view("<u8")[:, 0])
    cases = [
        Case("castore", partial(index.look_up, wanted)),
        Case("np.searchsorted of half of each id", partial(_search, halves, wanted)),
        Case("a dict of bytes", partial(_ask, known, wanted)),
        Case("castore, opening the index too", partial(_open, backend, wanted)),
    ]
    samples = interleave(cases, options.rounds_of(9, 3))
    samples[_ALLOWED] = [0.05]
    shutil.rmtree(place)
    title = f"{rows:,} rows looked up among as many, in random order"
    return against(
        title, samples, _GOALS, better="lower", beside={"castore, opening the index too"}
    )


def _search(halves: np.ndarray, wanted: RowIds) -> np.ndarray:
    return np.searchsorted(halves, wanted.view("<u8")[:, 0])


def _ask(known: dict[bytes, int], wanted: RowIds) -> list[int]:
    data = wanted.tobytes()
    return [known[data[start : start + 16]] for start in range(0, len(data), 16)]


def _open(backend: LocalBackend, wanted: RowIds) -> None:
    index = RowIndex(backend, _KIN)
    index.refresh()
    index.look_up(wanted)


def _gathers(options: Options) -> Iterator[Group]:
    rows, width = (500, 2048) if options.quick else (5000, 2048)
    place = options.scratch / "gathered"
    matrix = np.random.default_rng(0).standard_normal((rows, width), np.float32)
    backend = _store(place, {"x": matrix}, np.arange(rows))
    shuffled = np.random.default_rng(1).permutation(rows)[:-1]
    strided = np.concatenate([np.arange(start, rows, 7) for start in range(7)])[:-1]
    for order, picks in (
        ("in order", np.delete(np.arange(rows), rows // 2)),
        ("shuffled", shuffled),
        ("every seventh first", strided),
    ):
        cases = [
            Case("castore", partial(_gather, backend, picks, _ids(picks))),
            Case(_MEMORY, partial(matrix.__getitem__, picks)),
        ]
        samples = interleave(cases, options.rounds_of(21, 3))
        title = f"{rows - 1:,} of {rows:,} rows of {width:,} float32, {order}"
        yield against(title, samples, _GOALS, better="lower")
    shutil.rmtree(place)


def _partial_hits(options: Options) -> Group:
    rows = 500 if options.quick else 5000
    place = options.scratch / "partial"
    samples = TensorDataset(torch.arange(rows, dtype=torch.float32)[:, None])
    most = Subset(samples, np.delete(np.arange(rows), rows // 2).tolist())
    weights = torch.rand(1, 2048)

    def extract(loader: Any) -> torch.Tensor:
        return torch.cat([batch @ weights for (batch,) in loader])

    store = castore.open(place)
    named = {"dataset_id": "bench@1", "model": None}
    store.put(DataLoader(most, 100), extract(DataLoader(most, 100)), "partial", fn=extract, **named)
    group = partial_hit(store, DataLoader(samples, 100), extract, options, **named)
    shutil.rmtree(place)
    return group


def _gather(backend: LocalBackend, picks: np.ndarray, row_ids: RowIds) -> object:
    entry = find_entry(backend, _TABLE, _KEY)
    assert entry is not None
    into = allocate(entry.schema, len(picks))
    gather(entry, picks, row_ids, into, np.arange(len(picks)))
    return into


def _ids(names: np.ndarray) -> RowIds:
    return from_integers("3" * 32, names.astype(np.int64))


def _store(place: Path, columns: dict[str, np.ndarray], names: np.ndarray) -> LocalBackend:
    """Make a store with one entry."""
    backend = LocalBackend(place)
    draft = Draft(initialise(backend))
    for name, array in columns.items():
        draft.add(name, array)
    draft.add_rows(_ids(names))
    header = {
        "table": _TABLE,
        "key": _KEY,
        "rows": len(names),
        "aligned": True,
        "form": {"dict": [[name, {"array": name}] for name in columns]},
        "derivation": {},
        "origin": origin(0),
    }
    Writer(backend, _TABLE, {}).publish(draft, header)
    return backend


@contextmanager
def _state(folder: Path) -> Iterator[None]:
    """Keep what this machine remembers in `folder`."""
    before, os.environ[_STATE] = os.environ.get(_STATE), str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ[_STATE]
        else:
            os.environ[_STATE] = before
