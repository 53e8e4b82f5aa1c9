"""Whose code it is: a library's that goes by its names, or the user's that goes by what it says."""

from __future__ import annotations

import functools
import sys
import types
from typing import Any

__all__ = ["LIBRARIES", "is_library", "name_in_library", "package_of", "top"]

#: Packages whose types and functions mean what their names say: their versions are recorded.
LIBRARIES = frozenset(
    [
        "PIL",
        "albucore",
        "albumentations",
        "castore",
        "cv2",
        "datasets",
        "ml_dtypes",
        "numpy",
        "pandas",
        "pyarrow",
        "scipy",
        "skimage",
        "sklearn",
        "tokenizers",
        "torch",
        "torchvision",
        "transformers",
    ]
)


def top(module: Any) -> str | None:
    """Return the top-level package of a module's name."""
    return module.partition(".")[0] if isinstance(module, str) else None


def is_library(package: str | None) -> bool:
    """Tell whether a top-level package is Python's own or one that castore knows."""
    return package in LIBRARIES or package in sys.stdlib_module_names


def package_of(value: Any) -> str | None:
    """Return the top-level package that a function, class or object belongs to."""
    value = innermost(value)
    return top(getattr(value, "__module__", None) or type(value).__module__)


def innermost(fn: Any) -> Any:
    """Return the function below partials and bound methods."""
    while isinstance(fn, (functools.partial, types.MethodType)):
        fn = fn.func if isinstance(fn, functools.partial) else fn.__func__
    return fn


def name_in_library(value: Any) -> str | None:
    """Return the name under which a library has the function `value`, if one has."""
    module = getattr(value, "__module__", None) or _home_of_ufunc(value)
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
    if not (isinstance(module, str) and isinstance(name, str) and is_library(top(module))):
        return None
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return f"{module}.{name}" if found is value else None


def _home_of_ufunc(value: Any) -> str | None:
    """Return where numpy's universal functions are, which do not say."""
    return "numpy" if type(value).__name__ == "ufunc" else None
