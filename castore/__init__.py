"""Compute it once, anywhere; never be served a wrong byte.

castore keeps what machine-learning code computes about samples in one content-addressed store
on Zarr v3. See `castore.open` and `castore.store.Store.get_or_compute`.

Names are loaded when first used, so that a program that may never open a store does not wait
for one. Source: https://scientific-python.org/specs/spec-0001/
"""

from typing import TYPE_CHECKING, Any

from castore.version import __version__

if TYPE_CHECKING:
    from castore import errors
    from castore.identity.files.contents import file, file_ids
    from castore.identity.fingerprint import fingerprint, hash_model
    from castore.identity.loader import indices
    from castore.identity.protocols import register_fingerprint
    from castore.opening import init, open  # noqa: A004  castore.open, as the builtin opens files
    from castore.store import Store

__all__ = [
    "Store",
    "__version__",
    "errors",
    "file",
    "file_ids",
    "fingerprint",
    "hash_model",
    "indices",
    "init",
    "open",
    "register_fingerprint",
]

_HOMES = {
    "Store": ("castore.store", "Store"),
    "errors": ("castore.errors", None),
    "file": ("castore.identity.files.contents", "file"),
    "file_ids": ("castore.identity.files.contents", "file_ids"),
    "fingerprint": ("castore.identity.fingerprint", "fingerprint"),
    "hash_model": ("castore.identity.fingerprint", "hash_model"),
    "indices": ("castore.identity.loader", "indices"),
    "init": ("castore.opening", "init"),
    "open": ("castore.opening", "open"),
    "register_fingerprint": ("castore.identity.protocols", "register_fingerprint"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        msg = f"module 'castore' has no attribute {name!r}"
        raise AttributeError(msg)
    from importlib import import_module

    module, attribute = _HOMES[name]
    found = import_module(module)
    value = found if attribute is None else getattr(found, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
