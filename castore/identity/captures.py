"""What a function uses beside its argument: closure cells, defaults, globals, bound objects.

Captured values that can be encoded join the derivation under their path; torch modules are
the models; what has no rule is listed as *not keyed*. The walk goes through the function's own
top-level package and ``__main__``.
"""

from __future__ import annotations

import sys
from typing import Any

from castore.identity.findings import Captures
from castore.identity.libraries import is_library, package_of, top
from castore.identity.walk import Walk

__all__ = ["capture"]


def capture(fn: Any, loader: object = None) -> Captures:
    """Walk through `fn`, and whatever else is of its own top-level package or ``__main__``.

    Parameters
    ----------
    fn : callable
        A function, method, partial or callable object.
    loader : object, optional
        The loader `fn` will be given; where it is captured too it is left out.
    """
    packages = ("__main__", _package_of_script(), package_of(fn))
    own = {package for package in packages if not is_library(package)} - {None}
    walk = Walk(own.__contains__, loader)
    walk.start(fn, "fn")
    return walk.found


def _package_of_script() -> str | None:
    """Return the package of a script run by ``python -m``."""
    return top(getattr(getattr(sys.modules.get("__main__"), "__spec__", None), "name", None))
