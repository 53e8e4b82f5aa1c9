"""Whether rows computed again are the same, and what rules that out beforehand."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from castore import arrays
from castore.arrays import AnyArray
from castore.computing.answers import Options
from castore.identity.request import Request

__all__ = ["TOLERANCE", "agreeing", "difference", "obstacle", "scale_of"]

#: By how much a row may differ from itself computed among other rows, as a share of the value's
#: magnitude plus that of its element (`scale_of`). Types that are not listed must be equal.
TOLERANCE = {
    "bfloat16": 3e-2,
    "complex128": 1e-9,
    "complex64": 1e-3,
    "float16": 3e-2,
    "float32": 1e-3,
    "float64": 1e-9,
}


def obstacle(request: Request, options: Options) -> str:
    """Say why rows are not reused whatever the function does; nothing where they may be."""
    if request.row_ids is None or request.plan is None:
        return "the result belongs to no list of rows"
    if not request.rows:
        return "there are no rows"
    if options.compare and request.plan.batches is not None:
        return "batches of a batch sampler of one's own are not found again"
    if options.rowwise is False:
        return "rowwise=False"
    if options.rowwise is True:
        return ""
    models = request.function.models
    if not models:
        return "no model was found; rowwise=True says that rows are independent"
    training = [path for path, model in models.items() if any(m.training for m in model.modules())]
    if training:
        return f"{training[0]} is in training mode; call model.eval() first"
    return ""


def difference(
    stored: Mapping[str, AnyArray],
    computed: Mapping[str, AnyArray],
    among: Mapping[str, AnyArray] | None = None,
) -> str:
    """Say in what rows computed again differ from those stored; nothing if they agree.

    Parameters
    ----------
    stored, computed : mapping
        Columns of the same rows in the same order.
    among : mapping, optional
        Stored rows that tell the scale of each element; by default `stored`.
    """
    if list(stored) != list(computed):
        return f"it returned {', '.join(computed)} instead of {', '.join(stored)}"
    for name, before in stored.items():
        after = computed[name]
        if (before.dtype, before.shape) != (after.dtype, after.shape):
            kinds = f"{after.dtype} {after.shape} instead of {before.dtype} {before.shape}"
            return f"{name} was {kinds}"
        rows = np.flatnonzero(~agreeing(before, after, (among or stored)[name]))
        if len(rows):
            return f"{name} differed in {len(rows):,} of {len(before):,} rows computed again"
    return ""


def agreeing(before: AnyArray, after: AnyArray, among: AnyArray) -> AnyArray:
    """Tell of each row of two arrays whether it is the same, or as near as its type allows.

    Near is within a share of the value's magnitude and of the scale of its element.

    Parameters
    ----------
    before, after, among : ndarray
        (n, ...), (n, ...) and (m, ...), of one dtype; the last tells the scale.

    Returns
    -------
    ndarray
        bool (n,).
    """
    count = len(before)
    tolerance = TOLERANCE.get(arrays.name_of(before.dtype))
    if tolerance is None or not before.size:
        before, after = (arrays.raw(a).reshape(count, -1) for a in (before, after))
        same: AnyArray = (before == after).all(axis=1)
        return same
    scale = scale_of(among)
    before, after = _wide(before), _wide(after)
    magnitude = np.abs(before)
    with np.errstate(invalid="ignore"):  # infinity less infinity is caught by equality
        near = np.abs(before - after) <= tolerance * (magnitude + scale)
    equal = (before == after) | (np.isnan(before) & np.isnan(after))
    agree: AnyArray = ((near & np.isfinite(magnitude)) | equal).all(axis=1)
    return agree


def scale_of(values: AnyArray) -> AnyArray:
    """Return how large each element of a row is over all rows, and a little of what is usual.

    Element by element: one huge element, such as a masked logit, must not hide the others. The
    little, of the smaller values, is for elements that are mostly zero, as behind a ReLU.

    Parameters
    ----------
    values : ndarray
        (n, ...).

    Returns
    -------
    ndarray
        float64 (elements of a row,).
    """
    magnitude = np.abs(_wide(values))
    magnitude[~np.isfinite(magnitude)] = 0.0
    nonzero = magnitude[magnitude > 0]
    usual = np.quantile(nonzero, _SMALLER) if nonzero.size else 0.0
    scale: AnyArray = magnitude.mean(axis=0) + _USUAL * usual
    return scale


def _wide(values: AnyArray) -> AnyArray:
    wide = np.complex128 if values.dtype.kind == "c" else np.float64
    return values.astype(wide).reshape(len(values), -1)


_SMALLER, _USUAL = 0.1, 0.1
