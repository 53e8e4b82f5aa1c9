"""Transforms of albumentations: which are random, and what of the others is keyed."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from castore.canonical import dumps
from castore.errors import RandomError
from castore.identity.datasets.rules import samples_of
from castore.identity.describe import describe, refuse_random
from castore.identity.findings import Captures
from castore.identity.transforms import is_random

with pytest.MonkeyPatch.context() as patch:
    patch.setenv("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network for its version
    A = pytest.importorskip("albumentations")

IMAGE = np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8)


def held(transform) -> Captures:
    """What a function finds that applies a transform."""
    return describe({"transform": lambda image: transform(image=np.array(image))["image"]})


def document(transform) -> bytes:
    """What identifies a function that applies a transform."""
    found = held(transform)
    assert not found.not_keyed
    return dumps([found.values, found.functions])


def pipeline(size=8, **options):
    """Transforms of which none draws anything."""
    steps = [
        A.Resize(size, size),
        A.CenterCrop(6, 6),
        A.PadIfNeeded(10, 10),
        A.LongestMaxSize(9),
        A.HorizontalFlip(p=1),
        A.ToGray(p=1),
        A.Normalize(),
    ]
    return A.Compose(steps, **options)


def brighter(image, **_):
    """A function of the user's."""
    return image + 1


def darker(image, **_):
    """Another one."""
    return image - 1


# Random or not

PLAIN = [
    lambda: A.AutoContrast(p=1),
    lambda: A.CenterCrop(8, 8),
    lambda: A.Compose([]),
    lambda: A.Crop(1, 1, 9, 9),
    lambda: A.Equalize(p=1),
    lambda: A.HorizontalFlip(p=1),
    lambda: A.InvertImg(p=1),
    lambda: A.Lambda(image=brighter),
    lambda: A.LongestMaxSize(12),
    lambda: A.NoOp(p=0.5),
    A.Normalize,
    lambda: A.Pad(2),
    lambda: A.PadIfNeeded(30, 30),
    lambda: A.Resize(7, 9),
    lambda: A.Rotate(p=0),
    lambda: A.Sequential([A.NoOp()], p=1),
    lambda: A.SmallestMaxSize(12),
    A.ToFloat,
    lambda: A.ToGray(p=1),
    A.ToRGB,
    lambda: A.ToSepia(p=1),
    lambda: A.Transpose(p=1),
    lambda: A.VerticalFlip(p=1),
]


@pytest.mark.parametrize("build", PLAIN)
def test_what_draws_nothing_is_not_random(build):
    """A transform that is always applied, or never, and draws nothing is not random."""
    assert not is_random(build())
    assert not held(build()).random


RANDOM = [
    A.HorizontalFlip,
    lambda: A.Resize(8, 8, p=0.99),
    lambda: A.Compose([A.NoOp()], p=0.5),
    lambda: A.Sequential([A.NoOp()]),
    lambda: A.OneOf([A.NoOp(), A.VerticalFlip(p=1)], p=1),
    lambda: A.SomeOf([A.NoOp(), A.VerticalFlip(p=1)], n=1, p=1),
    lambda: A.RandomOrder([A.Transpose(p=1), A.VerticalFlip(p=1)], p=1),
    lambda: A.OneOrOther(A.NoOp(), A.VerticalFlip(p=1), p=1),
    lambda: A.PadIfNeeded(40, 40, position="random"),
    lambda: A.CenterCrop(40, 40, pad_if_needed=True, pad_position="random"),
    lambda: A.LongestMaxSize([8, 16]),
    lambda: A.SmallestMaxSize([8, 16]),
    lambda: A.RandomCrop(4, 4),
    lambda: A.ColorJitter(p=1),
]


@pytest.mark.parametrize("build", RANDOM)
def test_what_draws_is_random(build):
    """A transform that may be left out, chosen among others, or draws a parameter is random."""
    assert is_random(build())
    with pytest.raises(RandomError, match=type(build()).__name__):
        refuse_random(held(build()))


def test_random_transforms_are_found_in_compositions():
    """A composition is refused for what it holds, at any depth."""
    nested = A.Compose([A.Resize(9, 9), A.Sequential([A.RandomCrop(4, 4)], p=1)])
    assert list(held(nested).random.values()) == [
        "albumentations.augmentations.crops.transforms.RandomCrop"
    ]
    assert not is_random(nested)


def looks(kind) -> set[bytes]:
    """What a transform that is always applied makes of one picture, by seed."""
    found = set()
    with contextlib.suppress(TypeError, ValueError, NotImplementedError):  # needs more
        transform = kind(p=1)
        for seed in range(0 if is_random(transform) else 8):
            transform.set_random_seed(seed)
            found.add(transform(image=IMAGE)["image"].tobytes())
    return found


@pytest.mark.filterwarnings("ignore")  # some recommend others
def test_what_is_taken_for_plain_is_always_the_same():
    """No type of transform gives one picture two looks and passes for one that draws nothing."""
    kinds = [kind for kind in vars(A).values() if inspect.isclass(kind)]
    kinds = [kind for kind in kinds if issubclass(kind, A.ImageOnlyTransform | A.DualTransform)]
    found = {kind.__name__: len(looks(kind)) for kind in kinds}
    assert max(found.values()) == 1
    assert found["ToGray"] == 1


class Shifted(A.ImageOnlyTransform):
    """A transform of the user's own."""

    def __init__(self, by, p=1.0):
        super().__init__(p=p)
        self.by = by

    def apply(self, img, **_):
        """Add to the values of a picture."""
        return img + self.by


class Jittered(Shifted):
    """One that draws."""

    def get_params(self):
        """Draw what is added."""
        return {"by": self.py_random.random()}


def test_types_of_the_users_are_random_where_they_draw():
    """A type derived from albumentations' is random if it draws parameters or may be left out."""
    assert not is_random(Shifted(1))
    assert is_random(Shifted(1, p=0.5))
    assert is_random(Jittered(1))
    assert document(Shifted(1)) == document(Shifted(1)) != document(Shifted(2))


# What is keyed


def test_a_composition_is_described_whole():
    """Nothing of a composition that draws nothing is left out, and a rebuilt one is the same."""
    assert document(pipeline()) == document(pipeline())
    assert not held(pipeline()).random
    assert b"apply" not in document(pipeline())  # which its class says


OTHERS = {
    "a size": lambda: pipeline(9),
    "a target": lambda: pipeline(additional_targets={"other": "image"}),
    "boxes": lambda: pipeline(bbox_params=A.BboxParams(format="yolo")),
    "other boxes": lambda: pipeline(bbox_params=A.BboxParams(format="coco")),
    "fewer": lambda: A.Compose([A.Resize(8, 8)]),
    "an order": lambda: A.Compose([A.CenterCrop(6, 6), A.Resize(8, 8)]),
    "another order": lambda: A.Compose([A.Resize(8, 8), A.CenterCrop(6, 6)]),
    "a mean": lambda: A.Compose([A.Normalize(mean=(0, 0, 0))]),
    "another mean": lambda: A.Compose([A.Normalize(mean=(0, 0, 1))]),
    "an interpolation": lambda: A.Resize(8, 8, interpolation=0),
    "another interpolation": lambda: A.Resize(8, 8, interpolation=1),
    "a function": lambda: A.Lambda(image=brighter),
    "another function": lambda: A.Lambda(image=darker),
}


def test_every_parameter_counts():
    """Compositions with another parameter, step, order, target or function are others."""
    documents = {name: document(build()) for name, build in OTHERS.items()}
    assert len({*documents.values(), document(pipeline())}) == len(OTHERS) + 1


@pytest.mark.parametrize(
    "build",
    [
        pipeline,
        functools.partial(
            pipeline, bbox_params=A.BboxParams(format="pascal_voc", label_fields=["classes"])
        ),
    ],
    ids=["images", "boxes"],
)
def test_calls_change_nothing(build):
    """What a call leaves in a composition, and in its generators, does not count."""
    transform = build()
    before = document(transform)
    boxes = {"bboxes": [[0, 0, 3, 3]], "classes": ["cat"]} if transform.processors else {}
    transform(image=IMAGE, **boxes)
    assert document(transform) == before


def test_what_a_replay_repeats_counts():
    """A transform that repeats what was drawn is not random, and is known by what that was."""

    def replaying(angle):
        transform = A.Rotate(p=1)
        transform.replay_mode = transform.applied_in_replay = True
        transform.params = {"angle": angle}
        return transform

    assert not is_random(replaying(1))
    assert document(replaying(1)) == document(replaying(1)) != document(replaying(2))


def test_documents_are_the_same_in_another_process():
    """No order of sets, address or seed of this process is in a document."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_albumentations import document, pipeline\n"
        "sys.stdout.write(document(pipeline()).decode())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code, str(Path(__file__).parent)],
            env={**os.environ, "PYTHONHASHSEED": seed, "NO_ALBUMENTATIONS_UPDATE": "1"},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert found == {document(pipeline())}


def test_folders_of_pictures_are_seen_through_a_composition(tmp_path):
    """The samples of a folder of pictures are others under another composition."""
    torchvision = pytest.importorskip("torchvision")
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "class").mkdir()
    image.fromarray(IMAGE).save(tmp_path / "class" / "a.png")

    def ids(augment):
        dataset = torchvision.datasets.ImageFolder(
            str(tmp_path), transform=lambda picture: augment(image=np.array(picture))["image"]
        )
        dataset[0]
        return samples_of(dataset, np.arange(1)).row_ids.tobytes()

    assert ids(pipeline()) == ids(pipeline()) != ids(pipeline(9))
    with pytest.raises(RandomError, match="RandomCrop"):
        ids(A.Compose([A.RandomCrop(4, 4)]))
