"""simet's ``FeatureCacheService``, over a castore store.

Replace the import, nothing else::

    from castore.adapters.simet import FeatureCacheService

It fails open, as the original does: whatever is wrong with the cache, the features come back.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from typing import Any

import castore
from castore.errors import CastoreError, CommitError, FingerprintError, StoreError

__all__ = ["FeatureCacheService"]

_log = logging.getLogger(__name__)


class FeatureCacheService:
    """Keeps the feature matrix of a loader, and finds it again.

    Can be pickled, and used after fork and from any thread.

    Parameters
    ----------
    cache_dir : str or path
        A folder, made if absent, or any URL `castore.open` knows.

    Attributes
    ----------
    store : castore.Store
        Where the features are; ``castore ls`` shows them.

    Raises
    ------
    ConfigError
        If `cache_dir` is a file, or a URL that names no store.
    """

    #: An extractor that holds its cache computes the same without it.
    castore_infrastructure = True

    def __init__(self, cache_dir: str | os.PathLike[str] = "cache/features") -> None:
        self.store = castore.open(cache_dir)
        if self.store.mode in ("rw", "refresh"):
            try:
                castore.init(cache_dir)
            except StoreError as error:
                _log.warning("nothing can be stored: %s", error)

    def get_or_compute(
        self,
        loader: Any,
        compute_fn: Callable[[Any], Any],
        cache_key_suffix: str = "",
        force_recompute: bool = False,
        **identity: Any,
    ) -> Any:
        """Return ``compute_fn(loader)``, from the cache if it has been computed before.

        Parameters
        ----------
        loader : DataLoader
            What is computed over. Rows come back in its order; of a shuffled one, in the
            order of its dataset.
        compute_fn : callable
            Called once on a miss, never on a hit. The model and the values it captures are
            part of the key, and so is the loader's batch size.
        cache_key_suffix : str
            Names what is computed. Without one, the code of `compute_fn` is part of the key.
        force_recompute : bool
            Compute, and replace what is there once that succeeded.
        **identity
            ``model``, ``params``, ``version``, ``ignore``, ``dataset_id``, ``row_ids``, as for
            `castore.Store.get_or_compute`. A dataset castore has no rule for is computed anew
            each time, with a warning, unless ``dataset_id`` declares what it is.

        Returns
        -------
        ndarray
            Of any dtype and shape, writable; writing to it changes nothing stored. The same on
            a miss and on a hit, bit for bit.

        Raises
        ------
        ResultError
            If `compute_fn` returned None, or what cannot be kept.
        ConfigError
            If an argument cannot be used as given.
        """
        label = cache_key_suffix or getattr(compute_fn, "__qualname__", type(compute_fn).__name__)
        watched = _Watched(compute_fn)
        watched.message = f"{'forced' if force_recompute else 'miss'}: computing {label}"
        try:
            features = self.store.get_or_compute(
                loader, watched, cache_key_suffix, force=force_recompute, **identity
            )
        except (FingerprintError, StoreError) as error:
            if watched.called:  # then it is compute_fn's own
                raise
            _log.warning("%s is computed and not cached: %s", label, error)
            return self._uncached(loader, compute_fn, cache_key_suffix)
        except CommitError as error:
            if error is watched.error:
                raise
            _log.warning("%s", error)
            return error.result
        if not watched.called:
            _log.info("hit: %s", label)
        self._log_place(loader, watched, cache_key_suffix, identity)
        return features

    def _uncached(self, loader: Any, compute_fn: Callable[[Any], Any], suffix: str) -> Any:
        """Return what a hit would, without a store."""
        return castore.open(self.store.url, mode="off").get_or_compute(loader, compute_fn, suffix)

    def _log_place(self, loader: Any, fn: Any, suffix: str, identity: dict[str, Any]) -> None:
        if not _log.isEnabledFor(logging.DEBUG) or self.store.mode == "off":
            return
        try:
            info = self.store.info(loader, fn, suffix, **identity)
        except CastoreError as error:
            _log.debug("not stored: %s", error)
        else:
            _log.debug("key %s, table %s, in %s", info.key, info.table, self.store.url)


class _Watched(functools.partial[Any]):
    """A function that tells when it is called; castore looks through a partial when it keys."""

    called = False
    message = ""
    error: BaseException | None = None

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        self.called = True
        _log.info("%s", self.message)
        try:
            return super().__call__(*args, **kwargs)
        except BaseException as error:
            self.error = error
            raise
