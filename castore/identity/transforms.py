"""Which transforms of torchvision and albumentations are random.

A transform goes by its type's name and parameters, as every object of a library does. One that
is random is known by its type: two loads of a sample may agree by chance.
"""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["is_random", "is_transform"]

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


def is_transform(value: Any) -> bool:
    """Tell whether `value` is one of torchvision's transforms, which may be modules too."""
    return type(value).__module__.startswith("torchvision.transforms.")


def is_random(value: Any) -> bool:
    """Tell whether `value` is a transform that is known to be random."""
    if is_transform(value):
        name = type(value).__name__
        return name in _RANDOM or name.startswith("Random")
    return False
