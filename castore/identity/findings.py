"""What a walk through code and objects found, by path."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from castore.canonical import Json

__all__ = ["Captures"]


@dataclass
class Captures:
    """What was found.

    Attributes
    ----------
    values : dict[str, Json]
        Encoded values by path: ``"fn.layer"``, ``"global LAYER"``.
    functions : dict[str, str]
        Code digests by path, of the function itself and of the user's that it calls;
        ``"as <path>"`` for one that was found before.
    models : dict[str, Any]
        Torch modules by path.
    not_keyed : dict[str, str]
        Type names by path, of what has no rule.
    random : dict[str, str]
        Type names by path, of transforms known to be random.
    libraries : set[str]
        Modules of others whose functions, types and objects were met.
    """

    values: dict[str, Json] = field(default_factory=dict)
    functions: dict[str, str] = field(default_factory=dict)
    models: dict[str, Any] = field(default_factory=dict)
    not_keyed: dict[str, str] = field(default_factory=dict)
    random: dict[str, str] = field(default_factory=dict)
    libraries: set[str] = field(default_factory=set)
