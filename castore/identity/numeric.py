"""The switches of torch that change what a model computes, as they are at the call.

What deviates from torch's own defaults is keyed, so that a process without torch agrees with
one that has torch and left it alone. What may change the last bits at most, and what tells
where a result came from, is recorded. Of autocast, torch has one setting a thread.
"""

from __future__ import annotations

import operator
import os
import platform
import sys
from collections.abc import Iterator
from typing import Any

from castore import arrays
from castore.canonical import Json

__all__ = ["context"]

#: Device types that have autocast in one torch or another.
_DEVICES = ("cpu", "cuda", "xpu", "mps", "hpu", "xla", "mtia", "maia", "ipu", "privateuseone")

#: Precisions of float32 by backend and operator, and what each is by default.
_FLOAT32 = {
    ("cuda", "matmul"): "ieee",
    ("cuda", "conv"): "tf32",
    ("cuda", "rnn"): "tf32",
    ("mkldnn", "matmul"): "ieee",
    ("mkldnn", "conv"): "ieee",
    ("mkldnn", "rnn"): "ieee",
}
#: What ``torch.set_float32_matmul_precision`` means for each backend.
_MATMUL = {
    "highest": {},
    "high": {("cuda", "matmul"): "tf32", ("mkldnn", "matmul"): "tf32"},
    "medium": {("cuda", "matmul"): "tf32", ("mkldnn", "matmul"): "bf16"},
}

#: Other switches by their place in torch, and what each is by default. Not every torch has all.
_SWITCHES = {
    "backends.cuda.matmul.allow_fp16_accumulation": False,
    "backends.cuda.matmul.allow_fp16_reduced_precision_reduction": True,
    "backends.cuda.matmul.allow_fp16_reduced_precision_reduction_split_k": True,
    "backends.cuda.matmul.allow_bf16_reduced_precision_reduction": True,
    "backends.cuda.matmul.allow_bf16_reduced_precision_reduction_split_k": True,
    "backends.cuda.fp16_bf16_reduction_math_sdp_allowed": False,
    "backends.mkldnn.allow_tf32": False,
}
_READ = {place: operator.attrgetter(place) for place in _SWITCHES}

#: Turns TF32 off in all of NVIDIA's libraries, whatever torch was told.
#: https://docs.pytorch.org/docs/stable/cuda_environment_variables.html
_OVERRIDE = "NVIDIA_TF32_OVERRIDE"

#: Libraries whose versions are recorded, if the program has imported them.
_LIBRARIES = ("numpy", "torch", "torchvision", "PIL", "cv2", "transformers", "datasets")


def context() -> tuple[dict[str, Json], dict[str, Json]]:
    """Return what is keyed of the numeric context of the calling thread, and what is recorded.

    Only reads, raises no warnings, and costs some microseconds.

    Returns
    -------
    keyed : dict of str to Json
        What deviates from torch's defaults, by name: ``autocast.<device type>`` (the dtype, if
        autocast is enabled), ``default_dtype``, ``float32.<backend>.<operator>`` (``"ieee"``,
        ``"tf32"`` or ``"bf16"``, however it was set), the other switches by the name of their
        attribute, and ``NVIDIA_TF32_OVERRIDE``. Empty without torch.
    recorded : dict of str to Json
        ``versions`` of Python and of the libraries that are imported; with torch also
        ``device`` (the default one), ``cudnn`` and ``deterministic_algorithms``.
    """
    torch: Any = arrays.torch()
    recorded: dict[str, Json] = {"versions": _versions()}
    if torch is None:
        return {}, recorded
    cudnn = torch.backends.cudnn
    recorded["device"] = str(torch.get_default_device())
    recorded["cudnn"] = {
        name: getattr(cudnn, name) for name in ("enabled", "benchmark", "deterministic")
    }
    recorded["deterministic_algorithms"] = torch.are_deterministic_algorithms_enabled()
    return dict(_deviations(torch)), recorded


def _versions() -> dict[str, Json]:
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        version = getattr(sys.modules.get(name), "__version__", None)
        if version is not None:
            found[name] = str(version)
    return found


def _deviations(torch: Any) -> Iterator[tuple[str, Json]]:
    for device in _DEVICES:
        dtype = _autocast(torch, device)
        if dtype is not None:
            yield f"autocast.{device}", _name(dtype)
    if torch.get_default_dtype() is not torch.float32:
        yield "default_dtype", _name(torch.get_default_dtype())
    precisions = _float32(torch)
    for place, default in _FLOAT32.items():
        if precisions.get(place, default) != default:
            yield f"float32.{'.'.join(place)}", precisions[place]
    yield from _switches(torch)
    if _OVERRIDE in os.environ:
        yield _OVERRIDE, os.environ[_OVERRIDE]


def _autocast(torch: Any, device: str) -> Any | None:
    """Return the dtype that autocast uses on a device type, None where it is disabled."""
    try:
        enabled = torch.is_autocast_enabled(device)
    except RuntimeError:  # this torch has no autocast for it
        return None
    return torch.get_autocast_dtype(device) if enabled else None


def _float32(torch: Any) -> dict[tuple[str, str], str]:
    """Return the precisions of float32 in effect.

    Since torch 2.9 there are two sets of switches: to read the older ones warns, and raises
    where the newer ones were set to what the older cannot say. Setting an older one sets the
    newer ones too.
    """
    # Not by the attributes of torch.backends, of which mkldnn's sets what it does not read.
    read = getattr(torch._C, "_get_fp32_precision_getter", None)  # noqa: SLF001
    if read is None:
        return _older_float32(torch)
    found = {place: read(*place) for place in _FLOAT32}
    return {place: "ieee" if value == "none" else value for place, value in found.items()}


def _older_float32(torch: Any) -> dict[tuple[str, str], str]:
    found = dict(_MATMUL[torch.get_float32_matmul_precision()])
    if not torch.backends.cudnn.allow_tf32:
        found |= {("cuda", "conv"): "ieee", ("cuda", "rnn"): "ieee"}
    return found


def _switches(torch: Any) -> Iterator[tuple[str, Json]]:
    for place, default in _SWITCHES.items():
        try:
            value = _READ[place](torch)
        except AttributeError:  # this torch does not have it
            continue
        if callable(value):
            value = value()
        if value is not None and value != default:  # None: not built for what it switches
            yield place.rpartition(".")[2], value


def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")
