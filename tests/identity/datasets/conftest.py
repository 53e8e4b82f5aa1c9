"""Row ids as text, and real pictures in class folders."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from castore.identity.datasets.rules import samples_of
from castore.identity.datasets.samples import Terms


@pytest.fixture(scope="session")
def ids() -> Callable[..., list[str]]:
    """Row ids of a dataset, or of some of its samples, as text."""

    def row_ids(dataset, indices=None, *, dataset_id=None, names=None, **terms):
        indices = np.arange(len(dataset)) if indices is None else np.asarray(indices, np.int64)
        if "ignored" in terms:
            terms["ignored"] = frozenset(terms["ignored"])
        found = samples_of(dataset, indices, Terms(**terms), dataset_id, names)
        return [row.tobytes().hex() for row in found.row_ids]

    return row_ids


@pytest.fixture
def images(tmp_path):
    """Write real PNG files in two class folders; return the folder."""
    pytest.importorskip("torchvision.datasets")
    image = pytest.importorskip("PIL.Image")
    root = tmp_path / "images"
    values = np.random.default_rng(0).integers(0, 256, (4, 5, 5, 3), np.uint8)
    for index, name in enumerate(["cat/1.png", "cat/2.png", "dog/1.png", "dog/sub/3.png"]):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.fromarray(values[index]).save(path)
    return root
