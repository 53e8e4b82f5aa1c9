"""One array of an entry, as Zarr metadata and as bytes."""

from __future__ import annotations

import functools
import json
import math
import re
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from castore import arrays
from castore.arrays import AnyArray
from castore.blobs.codec import NONE, codec_named
from castore.blobs.coded import CodedShard
from castore.blobs.shard import Shard
from castore.canonical import Json, dumps
from castore.errors import DamagedError, ResultError

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
    codec : str
        What encodes its row groups, one of `castore.blobs.codec.CODECS`.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    codec: str = NONE

    @classmethod
    def of(cls, name: str, array: AnyArray) -> Column:
        """Describe `array`."""
        return cls(name, arrays.name_of(array.dtype), array.shape)

    def with_codec(self, codec: str) -> Column:
        """Return the column with its row groups encoded; itself if it has none.

        Raises
        ------
        ResultError
            If its rows are too long for that.
        """
        if codec == NONE or self.shard is None:
            return self
        most = codec_named(codec).most
        if self.row_nbytes > most:
            msg = (
                f"a row of column {self.name!r} has {self.row_nbytes:,} bytes, and {codec} takes "
                f"{most:,}: choose another codec"
            )
            raise ResultError(msg)
        return replace(self, codec=codec)

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
    def coded(self) -> CodedShard | None:
        """The shard with its row groups encoded, or None if they are not."""
        if self.codec == NONE or self.shard is None:
            return None
        return CodedShard(self.shard, self.codec, arrays.carrier(self.dtype).itemsize)

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
        """Length of the value under `chunk_key`; where that is encoded, the least it can be."""
        if self.coded:
            return self.coded.least_nbytes
        return self.shard.nbytes if self.shard else self.nbytes

    def may_take(self, nbytes: int) -> bool:
        """Tell whether the value under `chunk_key` can have this length."""
        return nbytes >= self.chunk_nbytes if self.coded else nbytes == self.chunk_nbytes

    def tail(self) -> bytes:
        """Return what follows the array's own bytes under `chunk_key`, if not encoded."""
        return self.shard.tail() if self.shard else b""

    def view(self, data: NDArray[np.uint8]) -> AnyArray:
        """View the value under `chunk_key`, decoded, or no bytes at all, as the array."""
        return data[: self.nbytes].view(arrays.dtype_named(self.dtype)).reshape(self.shape)

    def metadata(self) -> dict[str, Json]:
        """Return the array's ``zarr.json``."""
        kind = arrays.carrier(self.dtype)
        attributes = (
            {} if arrays.name_of(kind) == self.dtype else {"castore": {"dtype": self.dtype}}
        )
        plain: list[Json] = [{"configuration": {"endian": "little"}, "name": "bytes"}]
        coded = codec_named(self.codec).metadata(kind.itemsize) if self.codec != NONE else []
        shard = self.shard
        rest = [max(1, extent) for extent in self.shape[1:]]
        grid = [max(1, extent) for extent in self.shape]
        codecs = plain
        if shard is not None:
            grid = [shard.groups * shard.group_rows, *rest]
            codecs = [
                {
                    "configuration": {
                        "chunk_shape": [shard.group_rows, *rest],
                        "codecs": [*plain, *coded],
                        "index_codecs": [*plain, {"name": "crc32c"}],
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
        except (AttributeError, LookupError, TypeError, ValueError, OverflowError) as error:
            msg = f"the Zarr metadata of column {name!r} are not those of a castore column"
            raise DamagedError(msg) from error


@functools.lru_cache(maxsize=512)
def _parsed(name: str, document: bytes) -> Column:
    metadata = json.loads(document)
    dtype = metadata["attributes"].get("castore", {}).get("dtype", metadata["data_type"])
    codec = NONE if name.startswith("_") else _codec_in(metadata["codecs"])
    column = Column(name, dtype, tuple(metadata["shape"]), codec)
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


def _codec_in(codecs: Json) -> Json:
    """Return what Zarr metadata have after ``bytes`` in a shard."""
    inner = codecs[0]["configuration"].get("codecs", [])
    return inner[1]["name"] if len(inner) > 1 else NONE
