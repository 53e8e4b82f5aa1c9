"""One array of an entry, as Zarr metadata and as bytes."""

from __future__ import annotations

import functools
import json
import math
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from castore import arrays
from castore.arrays import AnyArray
from castore.blobs.shard import Shard
from castore.canonical import Json, dumps
from castore.errors import DamagedError

__all__ = ["CHECKS", "GROUP_METADATA", "ROWS", "Column", "column_name"]

#: The array of row ids, uint8 (n, 16).
ROWS = "_rows"
#: The group of row checks; ``_checks/<column>`` is uint64 (groups,).
CHECKS = "_checks"
#: ``zarr.json`` of a group.
GROUP_METADATA: dict[str, Json] = {"attributes": {}, "node_type": "group", "zarr_format": 3}

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_MAX_NBYTES = 2**62
_MAX_AXES = 64  # numpy's


def column_name(path: tuple[str | int, ...], taken: set[str]) -> str:
    """Return a column name for the part of a result at `path`, not in `taken`.

    The path itself where it is a plain Zarr node name, else a number. Names that differ in
    case only would collide on some file systems once exported, so they count as taken.
    """
    name = ".".join(map(str, path)) or "result"
    lower = {"zarr.json", *(other.lower() for other in taken)}
    if _NAME.fullmatch(name) and name.lower() not in lower:
        return name
    return next(name for n in range(len(lower) + 1) if (name := f"column-{n}") not in lower)


@dataclass(frozen=True)
class Column:
    """A fixed column: one Zarr v3 array, at most one shard.

    Attributes
    ----------
    name : str
        Path of its Zarr node within the entry.
    dtype : str
        Name of its dtype, ``"float32"`` or ``"bfloat16"``; bytes are little-endian.
    shape : tuple of int
        Shape of the whole array; the first axis counts rows.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, name: str, array: AnyArray) -> Column:
        """Describe `array`."""
        return cls(name, arrays.name_of(array.dtype), array.shape)

    @property
    def nbytes(self) -> int:
        """Length of the array's own bytes."""
        return math.prod(self.shape) * arrays.carrier(self.dtype).itemsize

    @property
    def row_nbytes(self) -> int:
        """Length of one row in bytes; of the value, where there is no axis."""
        return math.prod(self.shape[1:]) * arrays.carrier(self.dtype).itemsize

    @property
    def shard(self) -> Shard | None:
        """The shard that holds it, or None if it has no axis or no element."""
        if not self.shape or not self.nbytes:
            return None
        return Shard(self.shape[0], self.row_nbytes)

    @property
    def metadata_key(self) -> str:
        """Zarr key of its ``zarr.json``."""
        return f"{self.name}/zarr.json"

    @property
    def chunk_key(self) -> str | None:
        """Zarr key of its only chunk, or None if it has no element."""
        return "/".join([self.name, "c", *("0" for _ in self.shape)]) if self.nbytes else None

    @property
    def chunk_nbytes(self) -> int:
        """Length of the value under `chunk_key`."""
        return self.shard.nbytes if self.shard else self.nbytes

    def tail(self) -> bytes:
        """Return what follows the array's own bytes under `chunk_key`."""
        return self.shard.tail() if self.shard else b""

    def view(self, data: NDArray[np.uint8]) -> AnyArray:
        """View the value under `chunk_key`, or no bytes at all, as the array."""
        return data[: self.nbytes].view(arrays.dtype_named(self.dtype)).reshape(self.shape)

    def metadata(self) -> dict[str, Json]:
        """Return the array's ``zarr.json``."""
        kind = arrays.carrier(self.dtype)
        attributes = (
            {} if arrays.name_of(kind) == self.dtype else {"castore": {"dtype": self.dtype}}
        )
        inner = [{"configuration": {"endian": "little"}, "name": "bytes"}]
        shard = self.shard
        rest = [max(1, extent) for extent in self.shape[1:]]
        grid = [max(1, extent) for extent in self.shape]
        codecs: list[Json] = inner
        if shard is not None:
            grid = [shard.groups * shard.group_rows, *rest]
            codecs = [
                {
                    "configuration": {
                        "chunk_shape": [shard.group_rows, *rest],
                        "codecs": inner,
                        "index_codecs": [*inner, {"name": "crc32c"}],
                        "index_location": "end",
                    },
                    "name": "sharding_indexed",
                }
            ]
        return {
            "attributes": attributes,
            "chunk_grid": {"configuration": {"chunk_shape": grid}, "name": "regular"},
            "chunk_key_encoding": {"configuration": {"separator": "/"}, "name": "default"},
            "codecs": codecs,
            "data_type": arrays.name_of(kind),
            "fill_value": {"b": False, "c": [0, 0]}.get(kind.kind, 0),
            "node_type": "array",
            "shape": list(self.shape),
            "zarr_format": 3,
        }

    @classmethod
    def from_metadata(cls, name: str, metadata: Json) -> Column:
        """Return the column that `metadata` describes.

        Raises
        ------
        DamagedError
            If castore would not have written these metadata.
        """
        try:
            return _parsed(name, dumps(metadata))
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            msg = f"the Zarr metadata of column {name!r} are not those of a castore column"
            raise DamagedError(msg) from error


@functools.lru_cache(maxsize=512)
def _parsed(name: str, document: bytes) -> Column:
    metadata = json.loads(document)
    dtype = metadata["attributes"].get("castore", {}).get("dtype", metadata["data_type"])
    column = Column(name, dtype, tuple(metadata["shape"]))
    if not all(type(extent) is int and extent >= 0 for extent in column.shape):
        msg = f"no shape: {column.shape!r:.200}"
        raise ValueError(msg)
    if math.prod(max(1, extent) for extent in column.shape) >= _MAX_NBYTES // 16:
        msg = f"too large: {column.shape!r:.200}"
        raise ValueError(msg)
    if len(column.shape) > _MAX_AXES or dumps(column.metadata()) != document:
        msg = f"not of castore: {document[:200]!r}"
        raise ValueError(msg)
    return column
