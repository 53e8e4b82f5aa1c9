"""What castore replaces in simet: features pickled under an md5 of a few facts about the loader.

Written anew from a description of the original, defects included: a peer to measure against, and
to show that castore's tests would fail it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)


class FeatureCacheService:
    """Keeps what a function computes over a loader as one pickle a key.

    Parameters
    ----------
    cache_dir : Path
        A folder, made if absent.
    """

    def __init__(self, cache_dir: Path = Path("cache/features")) -> None:
        self.cache_dir = cache_dir
        self.cache_dir.mkdir(parents=True, exist_ok=True)

    def get_or_compute(
        self,
        loader: Any,
        compute_fn: Callable[[Any], Any],
        cache_key_suffix: str = "",
        force_recompute: bool = False,
    ) -> Any:
        """Return what is pickled under the loader's key, else compute and pickle it."""
        path = self.cache_dir / f"{self._key(loader, cache_key_suffix)}.pkl"
        features = None if force_recompute else self._load(path)
        if features is None:
            _log.info("computing features for %s", path.name)
            features = compute_fn(loader)
            self._save(path, features)
        return features

    def _key(self, loader: Any, suffix: str) -> str:
        dataset, indices = loader.dataset, None
        if hasattr(dataset, "indices"):
            indices = hash(tuple(sorted(dataset.indices)))
            dataset = dataset.dataset
        if hasattr(dataset, "root"):
            name = os.fspath(dataset.root)
        else:
            name = f"{type(dataset).__name__}-{len(dataset)}"
        facts = [name, indices, suffix, len(loader.dataset), loader.batch_size]
        return hashlib.md5("|".join(map(str, facts)).encode()).hexdigest()

    def _load(self, path: Path) -> Any:
        if not path.exists():
            return None
        try:
            with path.open("rb") as file:
                return pickle.load(file)
        except (EOFError, pickle.UnpicklingError) as error:
            _log.warning("%s cannot be read: %s", path, error)
            return None

    def _save(self, path: Path, features: Any) -> None:
        try:
            with path.open("wb") as file:
                pickle.dump(features, file)
        except Exception as error:
            _log.warning("%s cannot be written: %s", path, error)
            path.unlink(missing_ok=True)
