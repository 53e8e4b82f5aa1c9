"""What the golden stores hold: made here for make_store.py, expected here by test_store.py.

Everything is computed from small integers, so that it is the same for ever. What is listed here
never changes; a new rule of the format gets a new item, and a new format a new folder.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np

__all__ = ["HIERARCHIES", "RESULTS", "fill", "row_ids"]


def numbers(*shape, dtype="float32"):
    """Return an array of small numbers, each unlike its neighbours."""
    count = np.arange(np.prod(shape, dtype=int))
    return ((count * 37 % 251) / 4).astype(dtype).reshape(shape)


def row_ids(rows):
    """Return names for `rows` samples."""
    return [f"image-{number:04}.png" for number in range(rows)]


#: By suffix: samples, codec, and what the function returned over them.
RESULTS = {
    "features": (300, "none", numbers(300, 128)),
    "features-zstd": (300, "zstd", numbers(300, 128)),
    "features-blosc": (300, "blosc", numbers(300, 128)),
    "long": (3, "none", numbers(3, 9_000, dtype="float64")),
    "dtypes": (
        5,
        "none",
        {
            "bool": numbers(5, dtype="uint8") > 9,
            "int8": numbers(5, 2, dtype="int8"),
            "uint64": numbers(5, dtype="uint64"),
            "half": numbers(5, 3, dtype="float16"),
            "complex": numbers(5, dtype="complex64"),
            "bfloat16": numbers(5, 2, dtype="float32").astype(ml_dtypes.bfloat16),
            "when": numbers(5, dtype="int64").view("datetime64[s]"),
            "nothing": numbers(5, 0),
        },
    ),
    "containers": (
        2,
        "none",
        {
            "texts": ["a", "", "é😀"],
            "numbers": [1.5, -0.0],
            "nested": ({"deep": [numbers(2)]}, None, True, 2**80, "x"),
            "scalar": np.float64(0.1),
        },
    ),
}

#: Suffixes of the Zarr hierarchies that `fill` makes.
HIERARCHIES = ("pyramid", "many")


def fill(suffix, group):
    """Write a golden hierarchy into `group`, or into the arrays that are there already."""
    if suffix == "pyramid":
        group.attrs["resolution"] = 0.25
        base = group.create_array("level/0", shape=(200, 200), chunks=(50, 50), dtype="uint16")
        base[:100] = numbers(100, 200, dtype="uint16")
        sharded = group.create_array(
            "level/1", shape=(300,), chunks=(10,), shards=(100,), dtype="float32", fill_value=0.5
        )
        sharded[:200] = numbers(200)
        group.create_array("empty", shape=(0, 3), chunks=(1, 3), dtype="int8")
    else:
        steps = group.create_array("steps", shape=(2100,), chunks=(1,), dtype="uint8")
        steps[:] = numbers(2100, dtype="uint8") + 1
