"""Whose code it is: a library's that goes by its names, or the user's that goes by what it says."""

from __future__ import annotations

import functools
import os
import sys
import sysconfig
import types
from pathlib import Path
from typing import Any

__all__ = [
    "LIBRARIES",
    "innermost",
    "is_described",
    "is_library",
    "name_in_library",
    "package_of",
    "top",
    "type_name",
]

_DESCRIPTORS = (types.MethodDescriptorType, types.WrapperDescriptorType)
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


def type_name(kind: type) -> str:
    """Name of a type without the module of the script it was defined in."""
    module = "" if kind.__module__ == "__main__" else f"{kind.__module__}."
    return f"{module}{kind.__qualname__}"


def top(module: Any) -> str | None:
    """Return the top-level package of a module's name."""
    return module.partition(".")[0] if isinstance(module, str) else None


def is_library(package: str | None) -> bool:
    """Tell whether a top-level package is Python's own or one that castore knows.

    A user's own package may bear the same name (``datasets`` often does): it is none, unless it
    is installed.
    """
    if package not in LIBRARIES and package not in sys.stdlib_module_names:
        return False
    return package == "castore" or _is_installed(sys.modules.get(package or ""))


def is_described(package: str | None) -> bool:
    """Tell whether objects of a library are their attributes, of all that castore knows."""
    return package in LIBRARIES and is_library(package)


@functools.lru_cache(maxsize=1024)
def _is_installed(module: types.ModuleType | None) -> bool:
    """Tell whether a module lies where Python or an installer puts modules."""
    file = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
    if file is None:  # built in, or not imported
        return True
    folders = Path(file).parts
    return not {"site-packages", "dist-packages"}.isdisjoint(folders) or any(
        file.startswith(sysconfig.get_path(name) + os.sep) for name in ("stdlib", "platstdlib")
    )


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
    """Return the name under which a library has the function `value`, if one has.

    A method of a type written in C goes by that type's name.
    """
    if isinstance(value, _DESCRIPTORS):
        owner = value.__objclass__
        return f"{owner.__module__}.{owner.__qualname__}.{value.__name__}"
    module = getattr(value, "__module__", None) or _home(value)
    names = ("__name__",) if module in ("numpy", "torch") else ("__qualname__", "__name__")
    name = next((n for n in (getattr(value, name, None) for name in names) if n), None)
    if not (isinstance(module, str) and isinstance(name, str) and is_library(top(module))):
        return None
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return f"{module}.{name}" if found is value else None


def _home(value: Any) -> str | None:
    """Return where numpy's and torch's functions written in C are, which do not say."""
    name = getattr(value, "__name__", None)
    for module in ("numpy", "torch"):
        if isinstance(name, str) and getattr(sys.modules.get(module), name, None) is value:
            return module
    return None
