"""The values of a model's tensors, as digests.

A tensor is ``[dtype, shape, digest]``. The digest is of its raw bytes, little-endian and in C
order, wherever the tensor lies; of more than 4 MiB it is that of the list of the digests of
every 4 MiB, so that threads share a large tensor. What is more than an array (sparse,
quantised, of a subclass) goes by its parts, which are tensors.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from castore import arrays
from castore.canonical import Json, identify
from castore.digest import identity
from castore.errors import FingerprintError
from castore.identity.values import encode, type_name
from castore.threads import take_turns

__all__ = ["PART_NBYTES", "describe"]

#: Bytes under one digest. Part of the derivation: never change it.
PART_NBYTES = 4 << 20

_ALONE_NBYTES = 64 << 20  # below this, threads wait for the interpreter more than they save
_BIG_ENDIAN = sys.byteorder == "big"

#: What sparse tensors are made of, by layout.
_SPARSE = {
    "sparse_coo": ("indices", "values"),
    "sparse_csr": ("crow_indices", "col_indices", "values"),
    "sparse_csc": ("ccol_indices", "row_indices", "values"),
    "sparse_bsr": ("crow_indices", "col_indices", "values"),
    "sparse_bsc": ("ccol_indices", "row_indices", "values"),
}
_SHARDED = frozenset(["DTensor", "ShardedTensor", "FlatParameter"])
_EMPTY = frozenset(["FakeTensor", "FunctionalTensor", "UninitializedTensorMixin"])


def describe(tensors: Mapping[str, Any]) -> dict[str, Json]:
    """Return ``[dtype, shape, digest]`` of each tensor, by name.

    Tensors are only read; one that has several names is read once. Those elsewhere are brought
    to the CPU one at a time a thread, at most eight.

    Parameters
    ----------
    tensors : mapping of str to torch.Tensor
        The tensors, by the names that messages use.

    Raises
    ------
    FingerprintError
        For a tensor without values of its own: on the meta device, lazy, sharded.
    """
    torch: Any = arrays.torch()
    plain, strided = (torch.nn.Parameter, torch.Tensor), torch.strided
    found: dict[str, Json] = {}
    known: dict[int, Json] = {}
    documents: list[list[Json]] = []
    dense: list[Any] = []
    for name, tensor in tensors.items():
        document = known.get(id(tensor))
        if document is None:
            if (
                type(tensor) in plain
                and tensor.layout is strided
                and (tensor.data_ptr() or not tensor.nbytes)  # not on the meta device, not freed
                and not (tensor.is_nested or tensor.is_quantized or "ds_id" in tensor.__dict__)
            ):
                document = [str(tensor.dtype)[6:], list(tensor.shape)]
                documents.append(document)
                dense.append(tensor)
            else:
                digest = identify("composite", _composition(tensor, name))
                document = [str(tensor.dtype)[6:], list(tensor.shape), digest]
            known[id(tensor)] = document
        found[name] = document
    for document, digest in zip(documents, _digests(dense), strict=True):
        document.append(digest)
    return found


def _refusal(name: str, why: str) -> FingerprintError:
    return FingerprintError(
        f"parameter {name!r} {why}: load the model's values, or pass model=<digest> or "
        "model=castore.file(path)"
    )


def _composition(tensor: Any, name: str) -> Json:
    """Return what a tensor that is more than an array is made of."""
    torch: Any = arrays.torch()
    bases = {base.__name__ for base in type(tensor).__mro__}
    # https://deepspeed.readthedocs.io/en/latest/zero3.html
    if bases & _SHARDED or hasattr(tensor, "ds_id"):
        raise _refusal(name, "is sharded, and this process has a part of it")
    if bases & _EMPTY or tensor.is_meta:
        raise _refusal(name, "has no values to hash")
    if tensor.is_nested:
        raise _refusal(name, "is a nested tensor, for which castore has no rule")
    if type(tensor) not in (torch.nn.Parameter, torch.Tensor):
        return _subclass(tensor, name)
    tensor = tensor.detach()
    if tensor.is_quantized:
        return _quantised(tensor)
    if tensor.layout is torch.strided:
        raise _refusal(name, "has no values to hash: its memory was given back")
    layout = str(tensor.layout)[6:]
    if layout not in _SPARSE:
        raise _refusal(name, f"has the layout {layout}, for which castore has no rule")
    plain = tensor.coalesce() if layout == "sparse_coo" else tensor
    parts = {part: getattr(plain, part)() for part in _SPARSE[layout]}
    return {"kind": layout, "parts": describe(parts)}


def _quantised(tensor: Any) -> Json:
    scheme = str(tensor.qscheme())[6:]
    if scheme.startswith("per_channel"):
        scales, points = tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()
        parts = {"scales": scales, "values": tensor.int_repr(), "zero_points": points}
        return {"axis": tensor.q_per_channel_axis(), "kind": scheme, "parts": describe(parts)}
    scale = encode([tensor.q_scale(), tensor.q_zero_point()])
    return {"kind": scheme, "parts": describe({"values": tensor.int_repr()}), "scale": scale}


def _subclass(tensor: Any, name: str) -> Json:
    torch: Any = arrays.torch()
    kind = type_name(type(tensor))
    try:
        if hasattr(tensor, "__tensor_flatten__"):
            names, context = tensor.__tensor_flatten__()
            parts = {part: getattr(tensor, part) for part in names}
            held = encode(context, f"the context of {name}")
        else:
            with torch._C.DisableTorchFunctionSubclass():  # noqa: SLF001  torch gives no other name
                parts = {"values": tensor.detach().as_subclass(torch.Tensor)}
            attributes = {key: item for key, item in vars(tensor).items() if key != "_is_param"}
            held = encode(attributes, f"the attributes of {name}")
    except FingerprintError as error:
        raise _refusal(name, f"is a {kind}, which cannot be described ({error})") from error
    return {"held": held, "kind": kind, "parts": describe(parts)}


def _digests(tensors: list[Any]) -> list[str]:
    """Return the digests of dense tensors, in threads where that is quicker."""
    found = [[""] * (-(-tensor.nbytes // PART_NBYTES) or 1) for tensor in tensors]
    if sum(tensor.nbytes for tensor in tensors) < _ALONE_NBYTES:
        for tensor, digests in zip(tensors, found, strict=True):
            _digest(tensor, digests, range(len(digests)))
    else:
        turns = list(_turns(tensors, found))
        take_turns(lambda number: _take(turns[number]), len(turns))
    return [digests[0] if len(digests) == 1 else identify("parts", digests) for digests in found]


#: A tensor, where to put the digests of its parts, and which of them to read.
_Share = tuple[Any, list[str], range]


def _turns(tensors: list[Any], found: list[list[str]]) -> Iterator[list[_Share]]:
    """Give out what a thread reads at once: small tensors together, large ones in parts."""
    turn: list[_Share] = []
    size = 0
    for tensor, digests in zip(tensors, found, strict=True):
        count = len(digests)
        if count > 1 and _is_readable(tensor):
            yield from ([(tensor, digests, range(part, part + 1))] for part in range(count))
            continue
        turn.append((tensor, digests, range(count)))  # what must be copied is copied once
        size += tensor.nbytes
        if size >= PART_NBYTES:
            yield turn
            turn, size = [], 0
    yield turn


def _take(turn: list[_Share]) -> None:
    for tensor, digests, parts in turn:
        _digest(tensor, digests, parts)


def _digest(tensor: Any, digests: list[str], parts: range) -> None:
    data = _values(tensor)
    if len(digests) == 1:
        digests[0] = identity("tensor", data)
        return
    data = arrays.raw(data)
    for part in parts:
        digests[part] = identity("tensor", data[part * PART_NBYTES : (part + 1) * PART_NBYTES])


def _is_readable(tensor: Any) -> bool:
    """Tell whether the values of a tensor can be read where they lie."""
    plain = tensor.is_cpu and tensor.is_contiguous()
    return plain and not (tensor.is_conj() or tensor.is_neg() or _BIG_ENDIAN)


def _values(tensor: Any) -> arrays.AnyArray:
    """Return a C-contiguous array of the bytes of `tensor`, little-endian."""
    if tensor.dtype not in _plain_dtypes():
        torch: Any = arrays.torch()
        plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
        flat = plain.as_strided((plain.numel(),), (1,))  # reshape keeps strides of single items
        found: arrays.AnyArray = flat.view(torch.uint8).numpy()
    else:
        found = tensor.numpy(force=True)
        if not found.flags.c_contiguous:
            found = np.ascontiguousarray(found)
    if _BIG_ENDIAN:
        width = tensor.element_size() // (2 if tensor.is_complex() else 1)
        found = arrays.raw(found).view(f"u{width}").byteswap()
    return found


@functools.cache
def _plain_dtypes() -> frozenset[Any]:
    """Return torch's dtypes that numpy has too, and gives away without a copy."""
    torch: Any = arrays.torch()
    return frozenset([torch.float16, torch.float32, torch.float64, torch.int64, torch.uint8])
