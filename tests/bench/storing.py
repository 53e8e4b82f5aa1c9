"""Storing a new matrix durably, against writing the same bytes with the same fsyncs."""

from __future__ import annotations

import itertools
import os
import pickle
import shutil
from functools import partial
from pathlib import Path
from typing import IO, Any

import features
import numpy as np
from features import Matrix
from harness import Case, Options, interleave
from results import Group, Section, against

import castore

__all__ = ["NAME", "measure"]

NAME = "storing"
_GOALS = {"np.save, fsync": 1.2}
#: Rows, and rounds.
_SIZES = ((5_000, 20), (50_000, 5))
_FIRST = "castore, new table"


def measure(options: Options) -> Section:
    """Time misses whose function costs nothing."""
    groups = []
    for rows, usual in _SIZES[: 1 if options.quick else None]:
        groups += _groups(rows, options.rounds_of(usual, 3), options.scratch / f"storing-{rows}")
    note = (
        "New bytes under a new key each round. fsync: of the file and of its folder, before the "
        "clock stops. zarr-python has no fsync; its bytes may still be on their way to the disk."
    )
    return Section(NAME, "Storing", "time ÷ peer's", "lower", groups, note)


def _groups(rows: int, rounds: int, folder: Path) -> list[Group]:
    matrix = Matrix.of(rows)
    numbers = itertools.count()
    folder.mkdir()

    def renew() -> None:
        matrix.features[0, 0] = next(numbers)

    cases = [
        Case(name, run, renew, partial(_empty, folder))
        for name, run in _writes(matrix, folder).items()
    ]
    samples = interleave(cases, rounds)
    first = {"castore": samples.pop(_FIRST), "np.save, fsync": samples["np.save, fsync"]}
    return [
        against(matrix.title, samples, _GOALS, better="lower"),
        against(f"{matrix.title}, first of its table", first, {}, better="lower"),
    ]


def _writes(matrix: Matrix, folder: Path) -> dict[str, Any]:
    store = castore.open(folder / "castore")
    numbers = itertools.count()

    def to_castore(*, new_table: bool) -> Any:
        number = next(numbers)
        return store.get_or_compute(
            matrix.loader,
            features.extract,
            dataset_id=f"bench@{number}",
            version=number if new_table else None,
            **features.IDENTITY,
        )

    return {
        "castore": partial(to_castore, new_table=False),
        _FIRST: partial(to_castore, new_table=True),
        "np.save, fsync": partial(_save, folder / "features.npy", matrix.features, np.save),
        "pickle.dump, fsync": partial(_save, folder / "features.pkl", matrix.features, _pickle),
        "zarr-python, no fsync": partial(features.save_zarr, folder / "zarr", matrix.features),
    }


def _save(path: Path, array: np.ndarray, write: Any) -> None:
    """Write `array` to `path` so that it survives a power cut."""
    with path.open("wb") as file:
        write(file, array)
        file.flush()
        os.fsync(file.fileno())
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _pickle(file: IO[bytes], array: np.ndarray) -> None:
    pickle.dump(array, file)


def _empty(folder: Path) -> None:
    """Remove what was written, and wait until the disk has nothing more to do.

    castore's folders stay, as they do in a store that is in use.
    """
    for path in (*folder.glob("castore/blobs/*/*"), *folder.glob("features.*")):
        path.unlink()
    shutil.rmtree(folder / "zarr", ignore_errors=True)
    os.sync()
