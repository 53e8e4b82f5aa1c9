"""simet's ``FeatureCacheService``, over a castore store.

Replace the import, nothing else::

    from castore.adapters.simet import FeatureCacheService

It fails open, as the original does: whatever is wrong with the cache, the features come back.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Callable
from typing import Any

import castore
from castore.errors import CastoreError, CommitError, FingerprintError, StoreError
from castore.explain import Explanation
from castore.progress import Progress, shown

__all__ = ["FeatureCacheService"]

_log = logging.getLogger(__name__)

#: Of the options, what does not tell which result is meant.
_HOW = frozenset(("audit", "materialize", "progress", "returns", "wait"))


class FeatureCacheService:
    """Keeps the feature matrix of a loader, and finds it again, whole or row by row.

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
        **options: Any,
    ) -> Any:
        """Return ``compute_fn(loader)``, from the cache as far as it has been computed before.

        Whoever asks for what another thread or process is computing waits for it.

        Parameters
        ----------
        loader : DataLoader
            What is computed over. Rows come back in its order; of a shuffled one, in the
            order of its dataset.
        compute_fn : callable
            Not called on a hit. On a miss it is called with the loader, or a sequential twin; where
            the cache has some of the rows, with a loader over the others. The model and the values
            it captures are part of the key, and so is the loader's batch size.
        cache_key_suffix : str
            Names what is computed. Without one, the code of `compute_fn` is part of the key.
        force_recompute : bool
            Compute, and replace what is there once that succeeded.
        **options
            As for `castore.Store.get_or_compute`: ``model``, ``params``, ``version``, ``ignore``,
            ``dataset_id``, ``row_ids``, ``random``; ``rowwise``, ``audit``, ``materialize``,
            ``wait``, ``progress``. A dataset castore has no rule for is computed anew each time,
            with a warning, unless ``dataset_id`` declares what it is.

        Returns
        -------
        ndarray
            Of any dtype and shape, writable; writing to it changes nothing stored. The same on
            a miss and on a hit, bit for bit; rows put together from several results are those of
            batches of the same size, and equal as far as batches of other rows leave them so.

        Raises
        ------
        ResultError
            If `compute_fn` returned None, or what cannot be kept.
        ConfigError
            If an argument cannot be used as given.
        """
        name = cache_key_suffix or getattr(compute_fn, "__qualname__", type(compute_fn).__name__)
        options.setdefault("compare", ("batch_size",))
        told = {option: value for option, value in options.items() if option not in _HOW}
        explain = functools.partial(
            self.store.explain, loader, compute_fn, cache_key_suffix, **told
        )
        mode = "refresh" if force_recompute else self.store.mode
        with _Watch(name, loader, mode, explain, options.pop("progress", None)) as watch:
            try:
                features = self.store.get_or_compute(
                    loader, watch.watched(compute_fn), cache_key_suffix, force=force_recompute,
                    progress=watch.computing, **options,
                )  # fmt: skip
            except (FingerprintError, StoreError) as error:
                if error is watch.error:
                    raise
                _log.warning("%s is computed and not cached: %s", name, error)
                return self._uncached(loader, compute_fn, cache_key_suffix)
            except CommitError as error:
                if error is watch.error:
                    raise
                _log.warning("%s", error)
                return error.result
        watch.tell_outcome()
        self._tell_place(explain)
        return features

    def _uncached(self, loader: Any, compute_fn: Callable[[Any], Any], suffix: str) -> Any:
        """Return what a hit would, without a store."""
        return castore.open(self.store.url, mode="off").get_or_compute(loader, compute_fn, suffix)

    def _tell_place(self, explain: Callable[[], Explanation]) -> None:
        """Log key and place; of a result without an entry of its own, where its rows are."""
        if not _log.isEnabledFor(logging.DEBUG) or self.store.mode == "off":
            return
        try:
            found = explain()
        except CastoreError as error:
            _log.debug("not stored: %s", error)
            return
        where = f"table {found.table}, in {self.store.url}"
        if found.kind != "hit":
            _log.debug("not stored: key %s, %s", found.key, where)
        elif found.sources:
            rows = ", ".join(f"{rows} in {key}" for key, rows in found.sources)
            _log.debug("key %s has no entry of its own; rows: %s; %s", found.key, rows, where)
        else:
            _log.debug("key %s, %s", found.key, where)


class _Watch(contextlib.ExitStack):
    """Follows one request and logs what becomes of it, in one line.

    A miss is told of when its computation begins; what is known in the end only, in the end.
    castore tries functions on some stored rows, of which `computing` does not hear.

    Parameters
    ----------
    name : str
        What messages call it.
    loader : Any
        What the caller asks for.
    mode : str
        How the store is to treat the request.
    explain : callable
        Says why it misses.
    progress : bool or callable, optional
        What shows how far a computation is.

    Attributes
    ----------
    error : BaseException or None
        What the function raised last.
    """

    def __init__(
        self, name: str, loader: Any, mode: str, explain: Callable[[], Explanation],
        progress: Progress,
    ) -> None:  # fmt: skip
        super().__init__()
        self.error: BaseException | None = None
        self._name = name
        self._loader = loader
        self._mode = mode
        self._explain = explain
        self._progress = progress
        self._update: Callable[[int], None] | None = None
        self._computed: list[int] = []  # rows of each computation, but for the original loader
        self._missing = self._runs = 0
        self._told = False

    def watched(self, fn: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Return `fn`, watched; castore looks through a partial when it keys."""
        found = _Watched(fn)
        found.watch = self
        return found

    def begin(self, loader: Any) -> None:
        """Be told that the function is run over `loader`."""
        self.close()  # the bar of the run before
        self._update = None
        self._runs += 1
        if not self._told and _log.isEnabledFor(logging.INFO):
            self._tell_miss(whole=loader is self._loader)

    def computing(self, done: int, total: int | None) -> None:
        """Be told how far castore is with the rows it has the function compute."""
        if self._update is None:
            self._computed.append(total or 0)
            label = f"computing {self._name}"
            self._update = self.enter_context(shown(self._progress, label, total))
        self._update(done)

    def tell_outcome(self) -> None:
        """Log what became of the request, unless that is said."""
        computed = sum(self._computed) or self._missing  # of an array castore tells no progress
        if self._told or not _log.isEnabledFor(logging.INFO):
            return
        if not self._runs or not computed:
            self._tell("hit: %s", self._name)
            return
        asked = len(castore.indices(self._loader))
        if asked in self._computed:
            self._tell("miss: %s was computed", self._name)
        else:
            rows = computed, asked, asked - computed
            self._tell("partial hit: %s: %d of %d rows computed, %d reused", self._name, *rows)

    def _tell_miss(self, *, whole: bool) -> None:
        if self._mode == "refresh":
            self._tell("forced: computing %s", self._name)
        elif self._mode == "off":
            self._tell("miss: computing %s (the store is off)", self._name)
        elif why := self._why(whole=whole):
            self._tell("miss: computing %s (%s)", self._name, why)

    def _why(self, *, whole: bool) -> str:
        """Say why all is computed; nothing if perhaps only some rows are."""
        if self._runs == 1:
            try:
                found = self._explain()
            except CastoreError as error:
                return str(error)
            if found.kind == "miss":
                return found.short
            self._missing = found.missing or 0
        return "rows that are stored are not reused" if whole else ""

    def _tell(self, message: str, *values: object) -> None:
        self._told = True
        _log.info(message, *values)


class _Watched(functools.partial[Any]):
    """A function that tells its watch when it is run, and what it raises."""

    watch: _Watch

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        self.watch.begin(args[0])
        try:
            return super().__call__(*args, **kwargs)
        except BaseException as error:
            self.watch.error = error
            raise
