"""Compute it once, anywhere; never be served a wrong byte.

castore keeps what machine-learning code computes about samples in one content-addressed store
on Zarr v3. See `castore.open` and `castore.store.Store.get_or_compute`.
"""

from castore import errors
from castore.identity.model import hash_model
from castore.identity.request import as_row_indices as indices
from castore.opening import init, open  # noqa: A004  castore.open, as the builtin opens files
from castore.store import Store
from castore.version import __version__

__all__ = ["Store", "__version__", "errors", "hash_model", "indices", "init", "open"]
