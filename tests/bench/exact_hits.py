"""An exact hit, its fingerprint and the check of every byte included, against plain loading."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import features
import numpy as np
import xxhash
from features import Matrix
from harness import Case, Options, interleave
from peers.pickle_cache import FeatureCacheService
from results import Group, Section, against

import castore

__all__ = ["NAME", "measure"]

NAME = "hits"
_GOALS = {"pickle cache": 12.0, "np.load": 2.5}
#: Rows, and rounds.
_SIZES = ((5_000, 40), (50_000, 8))
#: Calls in a row, of each case in each round.
_BURST = 5
_SUMMED = ", summed"
_FLOOR = "mmap and xxh3-128 alone"


def measure(options: Options) -> Section:
    """Time exact hits of feature matrices."""
    groups = []
    for rows, usual in _SIZES[: 1 if options.quick else None]:
        groups += _groups(rows, options.rounds_of(usual, 7), options.scratch / f"hits-{rows}")
    note = (
        "Warm page cache. castore checks every byte it maps; the others check nothing. "
        "“after other work” is the first call of each burst of five, with cold processor caches; "
        "“summed” adds reading all of the result, in which mapped pages are touched again."
    )
    title = "An exact hit"
    return Section(NAME, title, "speed ÷ peer's", "higher", groups, note)


def _groups(rows: int, rounds: int, folder: Path) -> list[Group]:
    matrix = Matrix.of(rows)
    folder.mkdir()
    loads = _stored(matrix, folder)
    cases = [Case(name, load) for name, load in loads.items()]
    cases += [
        Case(f"{name}{_SUMMED}", partial(_summed, loads[name])) for name in ("castore", "np.load")
    ]
    samples = interleave(cases, rounds, burst=_BURST)
    plain = {name: seconds for name, seconds in samples.items() if not name.endswith(_SUMMED)}
    summed = {
        name.removesuffix(_SUMMED): seconds
        for name, seconds in samples.items()
        if name.endswith(_SUMMED)
    }
    first = {name: seconds[::_BURST] for name, seconds in plain.items()}
    return [
        against(matrix.title, plain, _GOALS, better="higher"),
        against(f"{matrix.title}, after other work", first, {}, better="higher"),
        against(f"{matrix.title}{_SUMMED}", summed, {}, better="higher"),
    ]


def _stored(matrix: Matrix, folder: Path) -> dict[str, Callable[[], Any]]:
    """Store the matrix everywhere; return what loads it again, each tried once."""
    store = castore.open(folder / "castore")
    service = FeatureCacheService(folder / "pickle")
    np.save(folder / "features.npy", matrix.features)
    features.save_zarr(folder / "zarr", matrix.features)

    def from_castore() -> Any:
        return store.get_or_compute(
            matrix.loader, features.extract, dataset_id="bench@1", **features.IDENTITY
        )

    def from_pickle() -> Any:
        return service.get_or_compute(matrix.loader, features.extract, "inception_v3")

    from_castore()
    from_pickle()
    loads = {
        "castore": from_castore,
        "np.load": partial(np.load, folder / "features.npy"),
        "zarr-python, 8 MB chunks": partial(features.load_zarr, folder / "zarr"),
        "pickle cache": from_pickle,
        _FLOOR: partial(_mapped_and_hashed, folder / "features.npy"),
    }
    for name, load in loads.items():
        assert load().tobytes() == matrix.features.tobytes(), f"{name} returned something else"
    assert store.stats().hits == 1, store.stats()
    return loads


def _mapped_and_hashed(path: Path) -> Any:
    """Do what no verified hit can do without."""
    mapped = np.load(path, mmap_mode="c")
    xxhash.xxh3_128_digest(mapped)
    return mapped


def _summed(load: Callable[[], Any]) -> Any:
    loaded = load()
    loaded.sum()
    return loaded
