"""Transforms by type and parameters; random ones and the user's own refused."""

from __future__ import annotations

import functools
import inspect

import pytest

from castore.canonical import dumps
from castore.errors import FingerprintError
from castore.identity.transforms import describe

torch = pytest.importorskip("torch")
T = pytest.importorskip("torchvision.transforms")
v2 = pytest.importorskip("torchvision.transforms.v2")
folder = pytest.importorskip("torchvision.datasets.folder")


def document(value) -> bytes:
    """Canonical form of a transform's document."""
    return dumps(describe(value, "transform"))


BUILD = {
    "none": lambda: None,
    "tensor": T.ToTensor,
    "pil": T.PILToTensor,
    "resize": lambda: T.Resize(8),
    "larger": lambda: T.Resize(9),
    "both sides": lambda: T.Resize((8, 9)),
    "nearest": lambda: T.Resize(8, interpolation=T.InterpolationMode.NEAREST),
    "no antialias": lambda: T.Resize(8, antialias=False),
    "crop": lambda: T.CenterCrop(8),
    "normalize": lambda: T.Normalize([0.5], [0.5]),
    "other mean": lambda: T.Normalize([0.4], [0.5]),
    "whitening": lambda: T.LinearTransformation(torch.eye(2), torch.zeros(2)),
    "other whitening": lambda: T.LinearTransformation(torch.eye(2), torch.ones(2)),
    "compose": lambda: T.Compose([T.Resize(8), T.ToTensor()]),
    "other order": lambda: T.Compose([T.ToTensor(), T.Resize(8)]),
    "shorter": lambda: T.Compose([T.Resize(8)]),
    "nested": lambda: T.Compose([T.Compose([T.Resize(8)]), T.ToTensor()]),
    "v2 resize": lambda: v2.Resize(8),
    "v2 compose": lambda: v2.Compose([v2.Resize(8), v2.ToImage()]),
    "v2 other order": lambda: v2.Compose([v2.ToImage(), v2.Resize(8)]),
    "v2 dtype": lambda: v2.ToDtype(torch.float32, scale=True),
    "v2 other dtype": lambda: v2.ToDtype(torch.float16, scale=True),
    "v2 unscaled": lambda: v2.ToDtype(torch.float32),
    "function": lambda: T.functional.hflip,
    "other function": lambda: T.functional.vflip,
}


def test_transforms_differ_by_type_parameter_and_order():
    """Each type, parameter, order and nesting of torchvision's transforms has its own document."""
    documents = {name: document(build()) for name, build in BUILD.items()}
    assert len(set(documents.values())) == len(BUILD)


@pytest.mark.parametrize("build", BUILD.values(), ids=BUILD)
def test_equal_transforms_agree(build):
    """A transform built twice has one document, which holds no address."""
    assert document(build()) == document(build())
    assert b" at 0x" not in document(build())


def test_train_flags_and_hooks_of_transforms_are_not_parameters():
    """A transform that is a module counts by its own attributes, not by what torch keeps in it."""
    assert document(v2.Resize(8).eval()) == document(v2.Resize(8))


RANDOM = {
    name: kind
    for namespace in (T, v2)
    for name, kind in vars(namespace).items()
    if inspect.isclass(kind) and name.startswith("Random")
}


@pytest.mark.parametrize(
    "build",
    [
        T.RandomHorizontalFlip,
        T.RandomErasing,
        lambda: T.RandomCrop(8),
        lambda: T.RandomApply([T.ToTensor()]),
        lambda: T.ColorJitter(0.1),
        lambda: T.GaussianBlur(3),
        T.AutoAugment,
        T.RandAugment,
        T.TrivialAugmentWide,
        T.AugMix,
        T.ElasticTransform,
        v2.RandomHorizontalFlip,
        v2.RandomPhotometricDistort,
        v2.GaussianNoise,
        lambda: v2.JPEG((5, 50)),
        lambda: v2.MixUp(num_classes=2),
        lambda: v2.CutMix(num_classes=2),
        lambda: v2.ScaleJitter((8, 8)),
    ],
)
def test_random_transforms_are_refused_at_every_depth(build):
    """A transform that draws is refused by name, alone and within others."""
    random = build()
    name = type(random).__name__
    for value in (
        random,
        T.Compose([T.Resize(8), random]),
        v2.Compose([v2.Compose([random])]),
        folder.VisionDataset("x", transform=random).transforms,
    ):
        with pytest.raises(FingerprintError, match=f"holds {name}, which is random"):
            describe(value, "its transform")


def test_every_random_class_of_torchvision_is_known_by_its_name():
    """What torchvision calls random is refused without being built by its maker."""
    assert RANDOM
    for kind in RANDOM.values():
        with pytest.raises(FingerprintError, match="which is random"):
            describe(object.__new__(kind), "its transform")


class Own(T.Resize):
    """A subclass of a library's transform."""


def own(image):
    """Do what the user wants."""
    return image


@pytest.mark.parametrize(
    "value",
    [
        own,
        lambda image: image,
        functools.partial(T.functional.resize, size=[8]),
        Own(8),
        T.Lambda(own),
        T.Compose([T.Resize(8), own]),
        v2.Compose([v2.Lambda(own)]),
        int,
        len,
        torch.nn.Sequential(T.Resize(8)),
    ],
    ids=repr,
)
def test_the_users_own_code_is_refused(value):
    """A function, subclass or lambda of the user's is refused, at every depth."""
    with pytest.raises(FingerprintError, match="the user's own code"):
        describe(value, "its transform")


def test_what_is_neither_is_encoded_or_refused():
    """A value that cannot be called is encoded as any value, and refused without a rule."""
    assert describe(3, "its transform") == 3
    with pytest.raises(FingerprintError, match=r"its transform is a builtins\.object"):
        describe(object(), "its transform")


def test_a_parameter_without_a_rule_is_named():
    """A transform with a parameter that cannot be encoded is refused by the parameter's path."""
    resize = T.Resize(8)
    resize.helper = object()
    with pytest.raises(FingerprintError, match=r"its transform\.helper"):
        describe(resize, "its transform")


def test_decoders_of_the_libraries_go_by_name():
    """Torchvision's and Pillow's functions go by their names, without their addresses."""
    assert describe(folder.default_loader, "loader") == {
        "function": "torchvision.datasets.folder.default_loader"
    }


def test_a_pair_of_transforms_is_one_document():
    """The transforms of image and target are described together, each in its place."""
    standard = pytest.importorskip("torchvision.datasets.vision").StandardTransform
    one = standard(T.ToTensor(), None)
    two = standard(None, T.ToTensor())
    assert len({document(one), document(two), document(standard())}) == 3
