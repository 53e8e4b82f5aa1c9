"""The values of a model's tensors, as digests.

A tensor is ``[dtype, shape, digest]``. The digest is of its raw bytes, little-endian and in C
order, wherever the tensor lies; of more than 4 MiB it is that of the list of the digests of
every 4 MiB, so that threads share a large tensor. What is more than an array (sparse,
quantised, of a subclass) goes by its parts, which are tensors.
"""

from __future__ import annotations

import functools
import itertools
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from castore import arrays
from castore.canonical import Json, identify
from castore.digest import identity
from castore.errors import FingerprintError
from castore.identity.values import encode, type_name
from castore.threads import together

__all__ = ["PART_NBYTES", "describe"]

#: Bytes under one digest. Part of the derivation: never change it.
PART_NBYTES = 4 << 20

_TURN_NBYTES = 1 << 20  # small tensors that a thread takes at once
_ALONE_NBYTES = 8 << 20  # below this, threads cost more than they save
_MOST_THREADS = 8
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
    """Return ``[dtype, shape, digest]`` of each tensor, by name, sorted.

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
    found: dict[str, Json] = {}
    known: dict[int, Json] = {}
    dense: list[tuple[list[Json], Any, str]] = []
    for name, tensor in sorted(tensors.items()):
        document = known.get(id(tensor))
        if document is None:
            document = known[id(tensor)] = [str(tensor.dtype)[6:], list(_shape(tensor, name))]
            composition = _composition(tensor, name)
            if composition is None:
                dense.append((document, tensor, name))
            else:
                document.append(identify("composite", composition))
        found[name] = document
    try:
        digests = _digests([tensor for _, tensor, _ in dense])
    except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        names = ", ".join(name for *_, name in dense[:3])
        raise _refusal(names, f"cannot be read ({error})") from error
    for (document, _, _), digest in zip(dense, digests, strict=True):
        document.append(digest)
    return found


def _refusal(name: str, why: str) -> FingerprintError:
    return FingerprintError(
        f"parameter {name!r} {why}: load the model's values, or pass model=<digest> or "
        "model=castore.file(path)"
    )


def _shape(tensor: Any, name: str) -> Any:
    """Return the shape of a tensor that has values here."""
    torch: Any = arrays.torch()
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        bases = {base.__name__ for base in type(tensor).__mro__}
        if bases & _SHARDED:
            raise _refusal(name, "is sharded: this process has a part of it")
        if bases & _EMPTY:
            raise _refusal(name, "has no values to hash")
    if "ds_id" in vars(tensor):  # https://deepspeed.readthedocs.io/en/latest/zero3.html
        raise _refusal(name, "is sharded by DeepSpeed: this process has a part of it")
    if tensor.is_meta:
        raise _refusal(name, "has no values to hash: it is on the meta device")
    if tensor.is_nested:
        raise _refusal(name, "is a nested tensor, for which castore has no rule")
    return tensor.shape


def _composition(tensor: Any, name: str) -> Json:
    """Return what a tensor that is more than an array is made of; None for one that is not."""
    torch: Any = arrays.torch()
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        return _subclass(tensor, name)
    tensor = tensor.detach()
    if tensor.layout is not torch.strided:
        layout = str(tensor.layout)[6:]
        if layout not in _SPARSE:
            raise _refusal(name, f"has the layout {layout}, for which castore has no rule")
        plain = tensor.coalesce() if layout == "sparse_coo" else tensor
        parts = {part: getattr(plain, part)() for part in _SPARSE[layout]}
        return {"kind": layout, "parts": describe(parts)}
    if tensor.is_quantized:
        return _quantised(tensor)
    return None


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
    found = [[""] * max(1, -(-tensor.nbytes // PART_NBYTES)) for tensor in tensors]
    turns = list(_turns(tensors, found))
    taken = itertools.count()  # whoever is free takes the next turn

    def work() -> None:
        while (turn := next(taken)) < len(turns):
            for tensor, digests, parts in turns[turn]:
                _digest(tensor, digests, parts)

    large = sum(tensor.nbytes for tensor in tensors) > _ALONE_NBYTES
    together(*[work] * (min(_processors(), _MOST_THREADS, len(turns)) if large else 1))
    return [digests[0] if len(digests) == 1 else identify("parts", digests) for digests in found]


_Turn = list[tuple[Any, list[str], range]]


def _turns(tensors: list[Any], found: list[list[str]]) -> Iterator[_Turn]:
    """Give out which parts of which tensors to read at once, and where to put their digests."""
    turn: _Turn = []
    size = 0
    for tensor, digests in zip(tensors, found, strict=True):
        count = len(digests)
        # What has to be copied to be read is copied once.
        step = 1 if _is_readable(tensor) else count
        for first in range(0, count, step):
            turn.append((tensor, digests, range(first, first + step)))
            size += tensor.nbytes // count * step
            if size >= _TURN_NBYTES:
                yield turn
                turn, size = [], 0
    yield turn


def _digest(tensor: Any, digests: list[str], parts: range) -> None:
    data = _values(tensor)
    if len(digests) == 1:
        digests[0] = identity("tensor", data)
        return
    data = arrays.raw(data)
    for part in parts:
        digests[part] = identity("tensor", data[part * PART_NBYTES : (part + 1) * PART_NBYTES])


def _is_readable(tensor: Any) -> bool:
    """Tell whether the memory of a tensor is in C order and the CPU's."""
    plain = tensor.is_cpu and tensor.is_contiguous()
    return plain and not (tensor.is_conj() or tensor.is_neg() or _BIG_ENDIAN)


def _values(tensor: Any) -> arrays.AnyArray:
    """Return a C-contiguous array of the bytes of `tensor`, little-endian."""
    if not _is_readable(tensor):
        tensor = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    torch: Any = arrays.torch()
    if tensor.dtype in _plain_dtypes():
        found: arrays.AnyArray = tensor.detach().numpy()
    else:
        found = tensor.detach().reshape(-1).view(torch.uint8).numpy()
    if _BIG_ENDIAN:
        width = tensor.element_size() // (2 if tensor.is_complex() else 1)
        found = arrays.raw(found).view(f"u{width}").byteswap().view("u1")
    return found


@functools.cache
def _plain_dtypes() -> frozenset[Any]:
    """Return torch's dtypes that numpy has too, and gives away without a copy."""
    torch: Any = arrays.torch()
    return frozenset([torch.float16, torch.float32, torch.float64, torch.int64, torch.uint8])


@functools.cache
def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
