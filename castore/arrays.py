"""Arrays and tensors as little-endian, C-contiguous numpy arrays, and back.

torch is never imported: a tensor can only be met where the user has imported it already.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from castore.errors import ConfigError

__all__ = [
    "AnyArray",
    "as_array",
    "carrier",
    "dtype_named",
    "is_supported",
    "is_tensor",
    "name_of",
    "raw",
    "to_torch",
    "torch",
]

AnyArray: TypeAlias = NDArray[Any]

_PLAIN = frozenset(
    [
        "bool",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "float16",
        "float32",
        "float64",
        "complex64",
        "complex128",
    ]
)
_TIMES = re.compile(r"(datetime|timedelta)64(\[[0-9]{0,9}[A-Za-zμ]{1,2}\])?")
#: Types that numpy has from ml_dtypes only, and the unsigned type of equal width.
_EXTENDED = {
    "bfloat16": "uint16",
    "float8_e4m3fn": "uint8",
    "float8_e4m3fnuz": "uint8",
    "float8_e5m2": "uint8",
    "float8_e5m2fnuz": "uint8",
}


def torch() -> Any | None:
    """Return the torch module if the user has imported it, else None."""
    return sys.modules.get("torch")


def is_tensor(value: object) -> bool:
    """Tell whether `value` is a torch tensor."""
    module = torch()
    return module is not None and isinstance(value, module.Tensor)


def is_supported(dtype: np.dtype[Any]) -> bool:
    """Tell whether castore can keep arrays of `dtype`."""
    return dtype.kind in "mM" or name_of(dtype) in _PLAIN or name_of(dtype) in _EXTENDED


@functools.lru_cache(maxsize=256)
def name_of(dtype: np.dtype[Any]) -> str:
    """Name of `dtype` without byte order: ``"float32"``, ``"bfloat16"``, ``"datetime64[ns]"``."""
    return str(dtype.name)


@functools.lru_cache(maxsize=256)
def dtype_named(name: str) -> np.dtype[Any]:
    """Return the little-endian dtype that `name_of` calls `name`.

    Raises
    ------
    TypeError
        If there is none.
    """
    if name in _EXTENDED:
        import ml_dtypes

        extended: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return extended
    if name not in _PLAIN and not _TIMES.fullmatch(name):  # np.dtype reads a small language
        msg = f"{name!r} is no dtype castore keeps"
        raise TypeError(msg)
    little: np.dtype[Any] = np.dtype(name).newbyteorder("<")
    return little


@functools.lru_cache(maxsize=256)
def carrier(name: str) -> np.dtype[Any]:
    """Return the dtype whose bytes a Zarr array holds for a castore dtype `name`.

    Zarr's core types are their own carrier; others travel as integers of equal width.
    """
    if name in _EXTENDED:
        return np.dtype(_EXTENDED[name]).newbyteorder("<")
    dtype = dtype_named(name)
    return np.dtype("<i8") if dtype.kind in "mM" else dtype


def as_array(value: Any) -> AnyArray | None:
    """Return the array or tensor `value` as little-endian, C-contiguous numpy memory.

    Values are kept bit for bit; a tensor is detached and brought to the CPU; what is
    contiguous and in the CPU's memory already is not copied. None for what is neither an
    array nor a tensor.

    Raises
    ------
    TypeError
        For sparse, quantised and meta tensors, and dtypes castore cannot keep.
    """
    if is_tensor(value):
        array = _from_tensor(value)
    elif isinstance(value, np.ma.MaskedArray):
        msg = "a masked array has no single value a row: return .filled(...) and the mask"
        raise TypeError(msg)
    elif isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
    else:
        return None
    if not is_supported(array.dtype):
        msg = f"arrays of dtype {array.dtype} cannot be kept: numbers and booleans can"
        raise TypeError(msg)
    array = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
    return array if array.flags.c_contiguous else np.ascontiguousarray(array)


def raw(array: AnyArray) -> NDArray[np.uint8]:
    """View a C-contiguous `array` as its bytes, shape (nbytes,)."""
    return array.reshape(-1).view(np.uint8)


def to_torch(array: AnyArray) -> Any:
    """Return a tensor that shares the memory of `array`.

    Raises
    ------
    ConfigError
        If torch has not been imported (castore never does), or has no such dtype.
    """
    module = torch()
    if module is None:
        msg = "tensors are asked for and torch is not imported: import torch first"
        raise ConfigError(msg)
    name = name_of(array.dtype)
    if name in _EXTENDED:
        bits = array.view(np.dtype(_EXTENDED[name]).str.replace("u", "i"))
        return module.from_numpy(bits).view(getattr(module, name))
    try:
        return module.from_numpy(array)
    except TypeError as error:
        msg = f"torch has no tensors of {name}: ask for returns='numpy'"
        raise ConfigError(msg) from error


_TENSOR_KINDS: tuple[tuple[str, Callable[[Any], bool]], ...] = (
    ("nested", lambda tensor: tensor.is_nested),
    ("meta", lambda tensor: tensor.is_meta),
    ("quantised", lambda tensor: tensor.is_quantized),
)


def _from_tensor(tensor: Any) -> AnyArray:
    module: Any = torch()
    kind = next((kind for kind, holds in _TENSOR_KINDS if holds(tensor)), None)
    if kind is None and tensor.layout is not module.strided:
        kind = "sparse"
    if kind is not None:
        msg = f"a {kind} tensor has no plain values: return a dense one"
        raise TypeError(msg)
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
    name = str(tensor.dtype).removeprefix("torch.")
    if name in _EXTENDED:
        bits = getattr(module, _EXTENDED[name].replace("u", "") if name == "bfloat16" else "uint8")
        found: AnyArray = tensor.contiguous().view(bits).numpy().view(dtype_named(name))
        return found
    plain: AnyArray = tensor.numpy()
    return plain
