"""What a dataset does to an item, where castore has a rule for it: torchvision's transforms.

A transform goes by its type's name and parameters. One known to be random is refused: its
outcome would be frozen into the store. The user's own code is refused here.
"""

from __future__ import annotations

import enum
import sys
from typing import Any

from castore import arrays
from castore.canonical import Json
from castore.errors import FingerprintError, RandomError
from castore.identity.code import name_of
from castore.identity.values import encode, type_name

__all__ = ["describe"]

_RANDOM = frozenset(
    [
        "AugMix",
        "AutoAugment",
        "ColorJitter",
        "CutMix",
        "ElasticTransform",
        "GaussianBlur",
        "GaussianNoise",
        "JPEG",
        "MixUp",
        "RandAugment",
        "ScaleJitter",
        "TrivialAugmentWide",
    ]
)
#: Functions of these packages are known by their names.
_LIBRARIES = ("torchvision.", "torch.", "PIL.")


def describe(value: Any, what: str) -> Json:
    """Return the document of a transform, a loader function, or None.

    Raises
    ------
    FingerprintError
        If castore has no rule for it.
    RandomError
        If it is random.
    """
    if value is None:
        return None
    kind = type(value)
    if kind.__module__.startswith("torchvision.transforms") and not isinstance(value, enum.Enum):
        return _torchvision(value, what)
    if kind.__module__ == "torchvision.datasets.vision" and kind.__name__ == "StandardTransform":
        return {
            "standard": [describe(value.transform, what), describe(value.target_transform, what)]
        }
    if _is_library_function(value):
        return {"function": f"{value.__module__}.{value.__name__}"}
    if callable(value):
        msg = f"{what} is {name_of(value)}, the user's own code, for which castore has no rule yet"
        raise FingerprintError(msg)
    return encode(value, what)


def _is_library_function(value: Any) -> bool:
    """Tell whether a library that castore knows has `value` under its own name."""
    module, name = getattr(value, "__module__", None), getattr(value, "__name__", None)
    if not (isinstance(module, str) and isinstance(name, str) and module.startswith(_LIBRARIES)):
        return False
    return getattr(sys.modules.get(module), name, None) is value


def _torchvision(value: Any, what: str) -> Json:
    name = type(value).__name__
    if name in _RANDOM or name.startswith("Random"):
        msg = f"{what} holds {name}, which is random: a stored result would freeze one draw of it"
        raise RandomError(msg)
    parameters = {
        attribute: _parameter(item, f"{what}.{attribute}")
        for attribute, item in vars(value).items()
        if attribute not in _module_attributes()
    }
    children = [describe(child, what) for child in getattr(value, "_modules", {}).values()]
    return {"transform": [type_name(type(value)), parameters, children]}


def _parameter(item: Any, what: str) -> Json:
    """Encode a parameter; transforms hold other transforms, one by one or in lists."""
    if isinstance(item, (list, tuple)):
        return [_parameter(part, what) for part in item]
    return describe(item, what) if callable(item) else encode(item, what)


def _module_attributes() -> frozenset[str]:
    torch = arrays.torch()
    return frozenset(vars(torch.nn.Module())) if torch is not None else frozenset()
