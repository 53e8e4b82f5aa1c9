"""Which transforms of torchvision and albumentations are random.

A transform goes by its type's name and parameters, as every object of a library does. One that
is random is known by its type and parameters: two loads of a sample may agree by chance, and
albumentations draws from generators of its own, which nobody sees move.
"""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["bookkeeping", "is_random", "is_transform"]

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

#: Of albumentations: what draws nothing but whether it is applied. Every other type draws.
_PLAIN = frozenset(
    [
        "AutoContrast",
        "CenterCrop",
        "CenterCrop3D",
        "Compose",
        "Crop",
        "Equalize",
        "FromFloat",
        "HorizontalFlip",
        "InvertImg",
        "Lambda",
        "LongestMaxSize",
        "NoOp",
        "Normalize",
        "Pad",
        "Pad3D",
        "PadIfNeeded",
        "PadIfNeeded3D",
        "ReplayCompose",
        "Resize",
        "Sequential",
        "SmallestMaxSize",
        "TimeReverse",
        "ToFloat",
        "ToGray",
        "ToRGB",
        "ToSepia",
        "ToTensor3D",
        "ToTensorV2",
        "Transpose",
        "VerticalFlip",
    ]
)
#: What types are derived from.
_BASES = frozenset(
    ["BaseCompose", "BasicTransform", "DualTransform", "ImageOnlyTransform", "Transform3D"]
)
#: What the author of a type writes where it draws.
_DRAWING = ("get_params", "get_params_dependent_on_data")
#: What albumentations keeps in a transform to run it: its generators, its methods by what they
#: are for, what the last call gave it.
_OF_TRANSFORMS = frozenset(
    [
        "_available_keys",
        "_images_was_list",
        "_key2func",
        "_masks_was_list",
        "invalid_args",
        "py_random",
        "random_generator",
    ]
)
_OF_PROCESSORS = frozenset(["is_sequence_input", "label_manager"])


def is_transform(value: Any) -> bool:
    """Tell whether `value` is one of torchvision's transforms, which may be modules too."""
    return type(value).__module__.startswith("torchvision.transforms.")


def is_random(value: Any) -> bool:
    """Tell whether `value` is a transform that is known to be random, whatever it holds.

    Of albumentations' types, and classes derived from them, those not known to be plain are.
    """
    if is_transform(value):
        name = type(value).__name__
        return name in _RANDOM or name.startswith("Random")
    if _is_of_albumentations(value) and not _replays(value):
        applied = value.p >= 1 or type(value).__name__ == "NoOp"  # which is the same left out
        return value.p > 0 and (not applied or _draws(value))
    return False


def bookkeeping(value: Any) -> frozenset[str]:
    """Return names of attributes of albumentations' objects that say nothing of what they do."""
    if _is_of_albumentations(value):
        return _OF_TRANSFORMS if _replays(value) else _OF_TRANSFORMS | {"params"}
    return _OF_PROCESSORS if _is_a(value, "utils", "DataProcessor") else frozenset()


def _is_of_albumentations(value: Any) -> bool:
    """Tell whether `value` is a transform of albumentations, or a composition of some."""
    return _is_a(value, "transforms_interface", "BasicTransform") or _is_a(
        value, "composition", "BaseCompose"
    )


def _is_a(value: Any, module: str, name: str) -> bool:
    """Tell whether `value` is of a type in albumentations' core.

    Source: https://github.com/albumentations-team/albumentations/tree/main/albumentations/core
    """
    return isinstance(value, getattr(sys.modules.get(f"albumentations.core.{module}"), name, ()))


def _replays(value: Any) -> bool:
    """Tell whether a transform does again what it once drew, its ``params``."""
    return bool(getattr(value, "replay_mode", False))


def _draws(value: Any) -> bool:
    """Tell whether a transform that is always applied draws what it does."""
    for kind in type(value).__mro__:
        if kind.__module__.startswith("albumentations."):
            return (
                kind.__name__ not in _PLAIN | _BASES
                or "random" in (getattr(value, "position", 0), getattr(value, "pad_position", 0))
                or isinstance(getattr(value, "max_size", None), (list, tuple))  # takes one of them
            )
        if any(name in vars(kind) for name in _DRAWING):
            return True
    return False
