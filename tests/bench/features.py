"""The feature matrices that are stored and found again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from numpy.typing import NDArray
from results import TIMES
from torch.utils.data import DataLoader, TensorDataset

__all__ = ["COLUMNS", "IDENTITY", "Matrix", "extract", "load_zarr", "save_zarr"]

COLUMNS = 2048
#: What a request says beside loader, function and dataset: the model by its digest.
IDENTITY: dict[str, Any] = {"suffix": "inception_v3", "model": "5eed" * 8, "progress": False}
#: 8 MiB chunks.
_CHUNK = (1024, COLUMNS)


@dataclass(frozen=True)
class Matrix:
    """Features float32 (rows, 2048), and a loader over as many samples."""

    features: NDArray[np.float32]
    loader: DataLoader[Any]

    @classmethod
    def of(cls, rows: int) -> Matrix:
        """Draw a matrix of `rows` rows."""
        features = np.random.default_rng(0).standard_normal((rows, COLUMNS), np.float32)
        dataset = TensorDataset(torch.from_numpy(features))
        return cls(features, DataLoader(dataset, batch_size=64))

    @property
    def title(self) -> str:
        """How the tables call it."""
        rows, nbytes = len(self.features), self.features.nbytes
        return f"{rows:,} {TIMES} {COLUMNS:,} float32, {nbytes / 1e6:,.0f} MB"


def extract(loader: DataLoader[Any]) -> NDArray[np.float32]:
    """Return the features at once: what is timed is the cache, not a model.

    They are carried by the loader because what a function captures becomes part of its key.
    """
    features: NDArray[np.float32] = loader.dataset.tensors[0].numpy()  # type: ignore[attr-defined]
    return features


def save_zarr(folder: Path, features: NDArray[np.float32]) -> None:
    """Write `features` with zarr-python, uncompressed, which is its fastest."""
    zarr.create_array(
        zarr.storage.LocalStore(folder), data=features, chunks=_CHUNK, compressors=None
    )


def load_zarr(folder: Path) -> Any:
    """Read with zarr-python what `save_zarr` wrote."""
    return zarr.open_array(zarr.storage.LocalStore(folder, read_only=True), mode="r")[:]
