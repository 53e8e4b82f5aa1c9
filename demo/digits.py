"""The work: a small network that reads scanned digits, and the features it sees in them."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import TensorDataset

__all__ = ["Extractor", "Network", "accuracy", "extract", "scans", "train_epoch"]

SIDE = 40  # pixels; the scans have 8
HELD_OUT = 5  # every fifth scan is not trained on


class Network(nn.Module):
    """Three convolutions, 128 features, 10 classes."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for taken, given in ((1, 24), (24, 48), (48, 96)):
            layers += [nn.Conv2d(taken, given, 3, padding=1), nn.BatchNorm2d(given), nn.ReLU()]
            layers += [nn.MaxPool2d(2)]
        pooled = [nn.AdaptiveAvgPool2d(2), nn.Flatten()]
        self.features = nn.Sequential(*layers, *pooled, nn.Linear(4 * 96, 128), nn.ReLU())
        self.classes = nn.Linear(128, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, float32 (n, 10), of `images`, float32 (n, 1, side, side)."""
        logits: Tensor = self.classes(self.features(images))
        return logits


def scans() -> TensorDataset:
    """Return all 1,797 scans, enlarged, with the digit each shows."""
    digits = load_digits()
    images = torch.from_numpy(digits.images).float().div(16).unsqueeze(1)
    enlarged = nn.functional.interpolate(images, size=(SIDE, SIDE), mode="bilinear")
    return TensorDataset(enlarged, torch.from_numpy(digits.target))


def train_epoch(model: Network, data: TensorDataset, epoch: int) -> None:
    """Train `model` once over the scans that are not held out; leave it in eval mode."""
    images, labels = data.tensors
    chosen = torch.arange(len(images))[torch.arange(len(images)) % HELD_OUT != 0]
    shuffled = chosen[torch.randperm(len(chosen), generator=torch.Generator().manual_seed(epoch))]
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3 / (1 + epoch))
    model.train()
    for batch in shuffled.split(64):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimiser.step()
    model.eval()


@torch.no_grad()
def accuracy(model: Network, data: TensorDataset) -> float:
    """Return the share of held-out scans that `model` reads rightly."""
    images, labels = (tensor[::HELD_OUT] for tensor in data.tensors)
    return (model(images).argmax(1) == labels).float().mean().item()


@torch.no_grad()
def extract(model: Network, loader: Iterable[Any]) -> NDArray[np.float32]:
    """Return the features of every image `loader` gives, float32 (n, 128)."""
    found: NDArray[np.float32] = torch.cat([model.features(images) for images, _ in loader]).numpy()
    return found


class Extractor:
    """An extractor in the manner of simet: it holds a cache and asks it."""

    def __init__(self, model: Network, cache_service: Any) -> None:
        self.model = model
        self.cache_service = cache_service

    def features(self, loader: Iterable[Any]) -> NDArray[np.float32]:
        """Return the features of `loader`, computed or cached."""
        compute = functools.partial(extract, self.model)
        found: NDArray[np.float32] = self.cache_service.get_or_compute(loader, compute, "simet")
        return found
