"""Identity imports the large libraries only if the program that uses it has."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest

LIBRARIES = [
    "torch",
    "torchvision",
    "datasets",
    "transformers",
    "PIL",
    "cv2",
    "pandas",
    "albumentations",
    "pyarrow",
    "sklearn",
]

WITH_NUMPY = """
    import numpy as np

    LAYER = 3

    def extract(loader, layers={"a", "b"}, scale=np.float32(2)):
        return np.asarray(loader).sum(1) * LAYER * scale

    rows = np.arange(6.0).reshape(3, 2)
    for loader, options in [(rows, {}), (rows.tolist(), {}), (rows, {"dataset_id": "rows@1"})]:
        for suffix in ("", "features"):
            store.get_or_compute(loader, extract, suffix, params={"x": rows}, **options)
            store.get_or_compute(loader, extract, suffix, params={"x": rows}, **options)
    store.compute(lambda x: x.sum(), suffix="sum", inputs={"x": rows}, model=castore.file(__file__))
    castore.fingerprint([rows, {"extract": len}])
    castore.indices(rows)
    castore.file_ids([__file__])
    assert store.stats().hits == 6
"""

WITH_TORCH = """
    import torch
    from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset

    class Own(Dataset):
        def __init__(self):
            self.transform = torch.nn.ReLU()

        def __len__(self):
            return 4

        def __getitem__(self, index):
            return (self.transform(torch.arange(2.0) + index),)

    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)).eval()

    def extract(loader):
        with torch.no_grad():
            return torch.cat([model(batch) for (batch,) in loader])

    data = TensorDataset(torch.arange(8.0).view(4, 2))
    parts = ConcatDataset([Subset(data, [1, -1]), data])
    for loader in (DataLoader(data, 2, shuffle=True), DataLoader(parts, 2)):
        store.get_or_compute(loader, extract, "features")
        store.get_or_compute(loader, extract, "features")
    store.get_or_compute(DataLoader(Own()), extract, "features", dataset_id="own@1")
    castore.fingerprint([model, data])
    assert store.stats().hits == 2
"""

WITH_IMAGES = """
    import pathlib, tempfile
    import torch

    try:
        import torchvision
    except RuntimeError:  # made for another torch: see tests/conftest.py
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(operator + "(Tensor dets, Tensor scores, float t) -> Tensor")
    from PIL import Image
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import ToTensor

    def extract(loader):
        return torch.cat([batch for batch, _ in loader])

    with tempfile.TemporaryDirectory() as root:
        pathlib.Path(root, "cat").mkdir()
        Image.new("RGB", (4, 4)).save(pathlib.Path(root, "cat", "1.png"))
        loader = DataLoader(ImageFolder(root, ToTensor()))
        store.get_or_compute(loader, extract, "features", model=None)
        store.get_or_compute(loader, extract, "features", model=None)
    assert store.stats().hits == 1
"""

START = """
import json
import sys

import castore

store = castore.open("memory://imports")
"""
END = f"""
print(json.dumps([name for name in {LIBRARIES} if name in sys.modules]))
"""


def imported(program, tmp_path):
    """Return which of the libraries are imported after a program has run."""
    path = tmp_path / "program.py"
    path.write_text(START + textwrap.dedent(program) + END)
    done = subprocess.run([sys.executable, path], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def test_a_program_with_numpy_keeps_to_numpy(tmp_path):
    """Values, arrays, lists, functions and files are identified without any other library."""
    assert imported(WITH_NUMPY, tmp_path) == []


def test_a_program_with_torch_keeps_to_torch(tmp_path):
    """Models, torch's datasets and loaders are identified with nothing but torch."""
    pytest.importorskip("torch")
    assert imported(WITH_TORCH, tmp_path) == ["torch"]


def test_a_program_with_images_keeps_to_those(tmp_path):
    """Images are identified without pandas, OpenCV, HuggingFace's or other libraries."""
    pytest.importorskip("torchvision")
    assert imported(WITH_IMAGES, tmp_path) == ["torch", "torchvision", "PIL"]
