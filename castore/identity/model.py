"""What a torch module computes, as a digest.

The digest covers the *state* (name, dtype, shape and raw bytes of every parameter and buffer,
extra state) and the *structure* (class, training flag and plain attributes of every
submodule). The device is out. ``torch.save`` bytes and parameter counts are never used.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from castore import arrays
from castore.canonical import Json, dumps
from castore.digest import identity_hasher
from castore.errors import FingerprintError
from castore.identity.captures import is_module
from castore.identity.members import attributes_of_module
from castore.identity.values import encode, type_name

__all__ = ["hash_model", "is_module", "structure", "training_flags", "unwrap"]


def unwrap(model: Any) -> Any:
    """Return the module inside DataParallel, DistributedDataParallel and compile wrappers."""
    torch: Any = arrays.torch()
    parallel = (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)
    compiled = getattr(sys.modules.get("torch._dynamo"), "OptimizedModule", ())
    while True:
        if isinstance(model, parallel):
            model = model.module
        elif compiled and isinstance(model, compiled):
            model = model._orig_mod  # noqa: SLF001  torch gives no public name
        else:
            return model


def hash_model(model: Any) -> str:
    """Return the digest of a torch module, 32 hex digits.

    Equal on any device, wrapped for parallel or compiled execution or not. Different when any
    parameter, buffer, submodule class, training flag or plain attribute differs.

    Parameters
    ----------
    model : torch.nn.Module
        The module. It is only read.

    Raises
    ------
    FingerprintError
        If it is no module, or has parameters without values (meta device).
    """
    if not is_module(model):
        msg = f"{type_name(type(model))} is no torch module: pass a module, or model=<its digest>"
        raise FingerprintError(msg)
    model = unwrap(model)
    state = identity_hasher("model")
    tensors = [(name, _values(name, tensor)) for name, tensor in _tensors(model)]
    headers = [[name, arrays.name_of(array.dtype), list(array.shape)] for name, array in tensors]
    header = dumps([structure(model)[0], headers])
    state.update(len(header).to_bytes(8, "little") + header)
    for _, array in tensors:
        state.update(arrays.raw(array))
    return state.hexdigest()


def structure(model: Any) -> tuple[Json, list[str]]:
    """Return what `model` is beside its tensors, and the names of attributes without a rule."""
    owned = attributes_of_module()
    found: dict[str, Json] = {}
    not_keyed: list[str] = []
    for name, module in model.named_modules():
        attributes: dict[str, Json] = {}
        for attribute, value in vars(module).items():
            if attribute in owned:
                continue
            try:
                attributes[attribute] = encode(value)
            except FingerprintError:
                not_keyed.append(f"{name}.{attribute}".lstrip("."))
        found[name] = {
            "attributes": attributes,
            "class": type_name(type(module)),
            "extra_state": _extra_state(module, name),
            "training": module.training,
        }
    return found, not_keyed


def training_flags(model: Any) -> list[tuple[Any, bool]]:
    """Return every submodule with its training flag, to put back later."""
    return [(module, module.training) for module in model.modules()]


def _extra_state(module: Any, name: str) -> Json:
    torch: Any = arrays.torch()
    if type(module).get_extra_state is torch.nn.Module.get_extra_state:
        return None
    return encode(module.get_extra_state(), f"the extra state of {name or 'the model'}")


def _tensors(model: Any) -> Iterator[tuple[str, Any]]:
    named = dict(model.named_parameters(remove_duplicate=False))
    named.update(model.named_buffers(remove_duplicate=False))
    yield from sorted(named.items())


def _values(name: str, tensor: Any) -> arrays.AnyArray:
    try:
        array = arrays.as_array(tensor)
    except (TypeError, ValueError) as error:  # parameters not yet materialised raise ValueError
        msg = f"parameter {name!r} has no values to hash ({error}): load it, or pass model=<digest>"
        raise FingerprintError(msg) from error
    assert array is not None  # a tensor always is
    return array
