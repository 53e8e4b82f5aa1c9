"""The store: what users hold."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from castore import catalog
from castore.catalog import EntryInfo
from castore.computing.answers import Codecs, Hit, Options
from castore.computing.resolve import Resolver
from castore.explain import Explanation
from castore.holdings import Holdings
from castore.identity.function import describe_function
from castore.identity.request import Request, identify_inputs, identify_loader
from castore.progress import Progress, shown_if_called

__all__ = ["Store"]

_F = TypeVar("_F", bound=Callable[..., Any])


class Store(Holdings):
    """A content-addressed store of what was computed. Made by `castore.open`.

    Holds a URL and options, never a file or a connection, so it can be pickled, and used after
    fork, spawn and forkserver and from any thread.
    """

    def _start(self) -> None:
        super()._start()
        self._resolver = Resolver(
            self._backend,
            self._recorder,
            mode=self.mode,
            lenient=self.on_error == "compute",
            copy=self.verify == "always",
            on_code_change=self.on_code_change,
            inherited=self._inherited,
        )

    def get_or_compute(
        self,
        loader: Any,
        fn: Callable[[Any], Any],
        suffix: str = "",
        *,
        model: Any = "auto",
        params: Mapping[str, Any] | None = None,
        version: str | int | None = None,
        dataset_id: str | None = None,
        row_ids: Any = None,
        rowwise: bool | Literal["auto"] = "auto",
        audit: float = 0.0,
        materialize: bool = False,
        random: Literal["refuse", "freeze"] = "refuse",
        ignore: Sequence[str] = (),
        compare: Sequence[str] = (),
        force: bool = False,
        wait: bool | float = True,
        returns: Literal["numpy", "torch"] = "numpy",
        progress: Progress = None,
        codec: Codecs = "none",
    ) -> Any:
        """Return what ``fn(loader)`` returns, from the store if it has been computed before.

        Parameters
        ----------
        loader : DataLoader, ndarray, tensor, list or tuple
            What is computed over. Which rows it gives, in which order, is found out without
            iterating it; a shuffled one is read through a sequential twin.
        fn : callable
            Called with the loader. Returns an array or tensor, or tuples, lists, named tuples
            and dicts of them, numbers and lists of strings; or yields batches of rows, which
            are written as they come and returned mapped, so that memory holds one batch.
        suffix : str
            Names what is computed. Without one, the function's code is part of the key.
        model : "auto", module, list of modules, str, `castore.file` or None
            ``"auto"`` takes the modules `fn` captures; a string is a digest, a file its content.
        params : mapping, optional
            Further values that the result depends on.
        version : str or int, optional
            Changed by the user when the function means something else under the same suffix.
        dataset_id : str, optional
            Vouches what the dataset is, so that nothing of it is read.
        row_ids : sequence of str or int, or ndarray uint8 (n, 16), optional
            With `dataset_id`: one name a sample. By default the index.
        rowwise : {"auto", True, False}
            Whether a row depends on its sample alone, so that rows computed for other requests
            of the table are reused and only missing ones computed, through a loader over those.
            ``"auto"``: if the function has a model, in eval mode, and some stored rows that are
            computed again by themselves come out the same; what acts rarely (removal of
            duplicates, clipping at a quantile) cannot be seen so. True: they do, and it is an
            error unless every array has one row a sample. False: the result is of the whole.
        audit : float
            Share of the reused rows to compute again, 0 to 1. If one differs, all are, and rows
            of the table are not reused any more.
        materialize : bool
            Store a result that was put together from rows, so that it is mapped the next time.
        random : {"refuse", "freeze"}
            Samples that are random (a random transform; a load that moves a global generator or
            differs from the one before, tried on a miss) are refused, or one draw of them is
            computed and kept.
        ignore : sequence of str
            Parts of the derivation, as `info` shows them. Of the variant (``"batch_size"``,
            ``"collate"``): an entry with any value of it answers. Captured values, ``"target"``
            and ``"path"`` of samples: they are left out of the key.
        compare : sequence of str
            ``"batch_size"``: rows are reused only from results of that batch size too.
        force : bool
            Compute, and replace what is there once that succeeded.
        wait : bool or float
            Whether, or for how many seconds, to wait for who computes the same. True: six hours.
        returns : {"numpy", "torch"}
            Kind of the arrays returned.
        progress : bool or callable, optional
            None: a bar on a terminal, for work beyond a second.
        codec : {"none", "zstd", "blosc"} or mapping
            How what is computed is stored, or columns of it, by name as `info` shows them.
            No part of the key: what is there answers, however it is stored.

        Returns
        -------
        Any
            Little-endian, C-contiguous, writable arrays in the container `fn` returns; the same
            on a miss and on a hit. Of a hit they are private mappings of the stored bytes, every
            byte checked: writing to them changes nothing stored. What is decoded is a copy, and
            what is put together from rows, which may differ as floats do (`rowwise`).

        Raises
        ------
        FingerprintError
            Before `fn` runs, if what identifies the input cannot be known.
        StoreError
            Before `fn` runs, if the store cannot be read or written.
        ResultError, CommitError
            After `fn` ran, with what it returned in ``.result``.
        """
        options = Options(
            returns, rowwise, progress, force=force, audit=audit, materialize=materialize,
            wait=wait, compare=compare, codec=codec,
        )  # fmt: skip

        def identify() -> Request:
            return self._request(
                loader, fn, suffix, progress, model=model, params=params, version=version,
                ignore=ignore, dataset_id=dataset_id, row_ids=row_ids, random=random,
            )  # fmt: skip

        return self._resolver.answer(identify, fn, loader, options)

    def compute(
        self,
        fn: Callable[..., Any],
        *,
        suffix: str,
        inputs: Mapping[str, Any],
        model: Any = None,
        version: str | int | None = None,
        force: bool = False,
        returns: Literal["numpy", "torch"] = "numpy",
        codec: Codecs = "none",
    ) -> Any:
        """Return what ``fn(**inputs)`` returns: a result that belongs to no loader.

        Parameters
        ----------
        fn : callable
            Called with `inputs` by name; what is keyed is what is used.
        suffix, model, version, force, returns, codec
            As for `get_or_compute`.
        inputs : mapping
            Arrays, numbers, strings and containers of them, keyed by content.

        Raises
        ------
        CastoreError
            As `get_or_compute` does.
        """
        options = Options(returns, rowwise=False, force=force, codec=codec)

        def identify() -> Request:
            function = describe_function(fn, suffix, model=model, version=version)
            return identify_inputs(function, inputs)

        return self._resolver.answer(identify, lambda _: fn(**inputs), None, options)

    def cache(self, suffix: str = "", **options: Any) -> Callable[[_F], _F]:
        """Return a decorator for functions of a loader.

        ``extract(loader, layer=3)`` then is `get_or_compute` of it, where arguments beside the
        loader are captured values. The function itself is ``extract.__wrapped__``.

        Parameters
        ----------
        suffix : str
            As for `get_or_compute`.
        **options
            Further arguments of `get_or_compute`.
        """
        return functools.partial(_cached, self, suffix=suffix, options=options)

    def get(
        self,
        loader: Any,
        fn: Callable[[Any], Any] | None = None,
        suffix: str = "",
        default: Any = None,
        *,
        rowwise: bool | Literal["auto"] = "auto",
        compare: Sequence[str] = (),
        returns: Literal["numpy", "torch"] = "numpy",
        **identity: Any,
    ) -> Any:
        """Return what `get_or_compute` would find, or `default`; nothing is computed.

        Parameters
        ----------
        loader, fn, suffix, rowwise, compare, returns
            As for `get_or_compute`. Without `fn` nothing is captured, so name the model; rows of
            other results are then put together only under ``rowwise=True``.
        default : Any
            Returned on a miss.
        **identity
            ``model``, ``params``, ``version``, ``ignore``, ``dataset_id``, ``row_ids``,
            ``random``.

        Raises
        ------
        FingerprintError, StoreError
            As `get_or_compute` does before the function runs.
        """
        options = Options(returns, rowwise, compare=compare)
        request = self._request(loader, fn, suffix, **identity)
        if self.mode == "off":
            return default
        found = self._resolver.find(request, options)
        return found.value if isinstance(found, Hit) else default

    def put(
        self,
        loader: Any,
        value: Any,
        suffix: str = "",
        *,
        fn: Callable[[Any], Any] | None = None,
        rowwise: bool | Literal["auto"] = "auto",
        codec: Codecs = "none",
        **identity: Any,
    ) -> EntryInfo:
        """Store `value`, computed elsewhere, as what `fn` returns over `loader`.

        Replaces, in one step, what is there.

        Parameters
        ----------
        loader, suffix, fn, rowwise, codec
            As for `get_or_compute`.
        value : Any
            What a function may return, or an iterator of batches.
        **identity
            As for `get`.

        Raises
        ------
        FingerprintError, StoreError, ResultError
            As `get_or_compute` does.
        """
        self._check_writable()
        options = Options(rowwise=rowwise, codec=codec)
        request = self._request(loader, fn, suffix, **identity)
        return catalog.entry_info(self._resolver.store(request, value, options))

    def info(
        self,
        loader: Any,
        fn: Callable[[Any], Any] | None = None,
        suffix: str = "",
        **identity: Any,
    ) -> EntryInfo:
        """Describe the entry behind a hit.

        Raises
        ------
        NotFoundError
            If there is none.
        """
        request = self._request(loader, fn, suffix, **identity)
        return catalog.entry_info(self._resolver.entry(request))

    def explain(
        self,
        loader: Any,
        fn: Callable[[Any], Any] | None = None,
        suffix: str = "",
        *,
        rowwise: bool | Literal["auto"] = "auto",
        compare: Sequence[str] = (),
        **identity: Any,
    ) -> Explanation:
        """Say whether a call would hit, in part or not at all, and why; nothing is computed.

        Parameters
        ----------
        loader, fn, suffix, rowwise, compare
            As for `get_or_compute`.
        **identity
            As for `get`.

        Raises
        ------
        FingerprintError, StoreError
            As `get_or_compute` does before the function runs.
        """
        request = self._request(loader, fn, suffix, **identity)
        return self._resolver.explain(request, Options(rowwise=rowwise, compare=compare))

    def _request(
        self,
        loader: Any,
        fn: Any,
        suffix: str,
        progress: Progress = None,
        *,
        dataset_id: Any = None,
        row_ids: Any = None,
        random: str = "refuse",
        **rest: Any,
    ) -> Request:
        function = describe_function(fn, suffix, loader=loader, **rest)
        with shown_if_called(progress, f"reading files for {function.name}") as on_file:
            return identify_loader(
                function, loader, dataset_id=dataset_id, row_ids=row_ids, random=random,
                by=self.identity, on_file=on_file,
            )  # fmt: skip


def _cached(store: Store, fn: _F, *, suffix: str, options: Mapping[str, Any]) -> _F:
    """Return `fn`, a function of a loader and further arguments, as a call of `store`."""
    signature = inspect.signature(fn)

    @functools.wraps(fn)
    def cached(loader: Any, /, *args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(loader, *args, **kwargs).arguments
        rest = dict(list(bound.items())[1:])
        return store.get_or_compute(loader, functools.partial(fn, **rest), suffix, **options)

    return cached  # type: ignore[return-value]
