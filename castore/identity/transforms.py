"""What a dataset does to an item, where castore has a rule for it: torchvision's transforms.

A transform goes by its type's name and parameters. One known to be random is refused: its
outcome would be frozen into the store. The user's own code is refused here.
"""

from __future__ import annotations

import sys
from typing import Any

from castore import arrays
from castore.canonical import Json
from castore.errors import FingerprintError
from castore.identity.code import name_of
from castore.identity.values import encode, type_name

__all__ = ["describe"]

_RANDOM = frozenset(
    "AugMix AutoAugment ColorJitter CutMix ElasticTransform GaussianBlur GaussianNoise JPEG MixUp "
    "RandAugment ScaleJitter TrivialAugmentWide".split()
)
#: Functions of these packages are known by their names.
_LIBRARIES = ("torchvision.", "torch.", "PIL.")


def describe(value: Any, what: str) -> Json:
    """Return the document of a transform, a loader function, or None.

    Raises
    ------
    FingerprintError
        If it is random, or castore has no rule for it.
    """
    if value is None:
        return None
    kind = type(value)
    if kind.__module__.startswith("torchvision.transforms"):
        return _torchvision(value, what)
    if kind.__module__ == "torchvision.datasets.vision" and kind.__name__ == "StandardTransform":
        return {"standard": [describe(value.transform, what), describe(value.target_transform, what)]}
    module = getattr(value, "__module__", None) or ""
    if callable(value) and module.startswith(_LIBRARIES) and sys.modules.get(module) is not None:
        found = getattr(sys.modules[module], getattr(value, "__name__", ""), None)
        if found is value:
            return {"function": f"{module}.{value.__name__}"}
    if callable(value):
        msg = f"{what} is {name_of(value)}, the user's own code, for which castore has no rule yet"
        raise FingerprintError(msg)
    return encode(value, what)


def _torchvision(value: Any, what: str) -> Json:
    name = type(value).__name__
    if name in _RANDOM or name.startswith("Random"):
        msg = f"{what} holds {name}, which is random: a stored result would freeze one draw of it"
        raise FingerprintError(msg)
    parameters = {
        attribute: _parameter(item, f"{what}.{attribute}")
        for attribute, item in vars(value).items()
        if attribute not in _module_attributes()
    }
    children = [_torchvision_or(child, what) for child in getattr(value, "_modules", {}).values()]
    return {"transform": [type_name(type(value)), parameters, children]}


def _parameter(item: Any, what: str) -> Json:
    if isinstance(item, (list, tuple)):
        return [_parameter(part, what) for part in item]
    return _torchvision_or(item, what)


def _torchvision_or(item: Any, what: str) -> Json:
    if callable(item) or type(item).__module__.startswith("torchvision."):
        return encode(item, what) if isinstance(item, type) is False and _is_enum(item) else describe(item, what)
    return encode(item, what)


def _is_enum(item: Any) -> bool:
    import enum

    return isinstance(item, enum.Enum)


def _module_attributes() -> frozenset[str]:
    torch = arrays.torch()
    return frozenset(vars(torch.nn.Module())) if torch is not None else frozenset()
