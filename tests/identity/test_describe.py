"""What turns an item into a sample, by type and parameters, or by code and what it holds."""

from __future__ import annotations

import functools
import inspect

import pytest

from castore.canonical import dumps
from castore.errors import FingerprintError, RandomError
from castore.identity.decoders import behaviour
from castore.identity.describe import describe, document_of, refuse_random, refuse_unknown

torch = pytest.importorskip("torch")
T = pytest.importorskip("torchvision.transforms")
v2 = pytest.importorskip("torchvision.transforms.v2")
folder = pytest.importorskip("torchvision.datasets.folder")


def document(value) -> bytes:
    """Canonical form of a transform's document."""
    found = describe({"transform": value})
    refuse_unknown(found)
    refuse_random(found)
    return dumps(document_of(found))


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
        with pytest.raises(RandomError, match=f"holds {name}, which is random"):
            document(value)


def test_every_random_class_of_torchvision_is_known_by_its_name():
    """What torchvision calls random is refused without being built by its maker."""
    assert RANDOM
    for kind in RANDOM.values():
        with pytest.raises(RandomError, match="which is random"):
            document(object.__new__(kind))


class Own(T.Resize):
    """A subclass of a library's transform."""

    def forward(self, image):
        """Do what the user wants."""
        return image


def own(image, size=1):
    """Do what the user wants."""
    return image, size


def other(image, size=2):
    """Do something else."""
    return image, size


class Scale:
    """An object that is called, with an attribute."""

    def __init__(self, by):
        self.by = by

    def __call__(self, image):
        """Scale."""
        return image * self.by


OWN = {
    "function": lambda: own,
    "other default": lambda: other,
    "lambda": lambda: lambda image: image,
    "other lambda": lambda: lambda image: -image,
    "partial": lambda: functools.partial(T.functional.resize, size=[8]),
    "other partial": lambda: functools.partial(T.functional.resize, size=[9]),
    "subclass": lambda: Own(8),
    "subclass with another size": lambda: Own(9),
    "wrapped": lambda: T.Lambda(own),
    "wrapped other": lambda: T.Lambda(other),
    "in a list": lambda: T.Compose([T.Resize(8), own]),
    "other in a list": lambda: T.Compose([T.Resize(8), other]),
    "v2": lambda: v2.Compose([v2.Lambda(own)]),
    "object": lambda: Scale(2),
    "other object": lambda: Scale(3),
    "module": lambda: torch.nn.Sequential(T.Resize(8)),
    "other module": lambda: torch.nn.Sequential(T.Resize(9)),
    "type": lambda: int,
    "builtin": lambda: len,
}


def test_the_users_own_code_goes_by_what_it_says_and_holds():
    """A function, lambda, object or subclass of the user's differs by code and values held."""
    documents = {name: document(build()) for name, build in OWN.items()}
    assert len(set(documents.values())) == len(OWN)
    assert documents == {name: document(build()) for name, build in OWN.items()}
    assert not any(__name__.encode() in text for text in documents.values())


def test_a_random_transform_in_a_module_is_seen():
    """The idiom of a Sequential of transforms hides no random one."""
    with pytest.raises(RandomError, match="RandomCrop"):
        document(torch.nn.Sequential(T.Resize(8), T.RandomCrop(8)))


def test_values_are_encoded_under_their_path():
    """A value that cannot be called is encoded as any value."""
    assert describe({"size": 3, "mean": [0.5]}).values == {"size": 3, "mean": [{"float": "0.5"}]}


def test_what_has_no_rule_is_refused_by_its_path():
    """A transform with a parameter that cannot be encoded is refused by the parameter's path."""
    resize = T.Resize(8)
    resize.helper = object()
    with pytest.raises(FingerprintError, match=r"'transform\.helper' \(builtins\.object\)"):
        document(resize)


def test_functions_of_libraries_go_by_name():
    """Torchvision's and Pillow's functions go by their names, without their addresses."""
    assert describe({"loader": folder.default_loader}).values == {
        "loader": {"function": "torchvision.datasets.folder.default_loader"}
    }


def test_a_decoder_that_code_reaches_is_keyed_by_its_behaviour():
    """Code that opens pictures with Pillow is keyed by what Pillow makes of pictures."""
    pictures = pytest.importorskip("PIL.Image")

    def load(path):
        return pictures.open(path)

    assert "decoders" not in document_of(describe({"loader": own}))
    assert document_of(describe({"loader": load}))["decoders"] == {"PIL": behaviour("PIL")}


def test_a_pair_of_transforms_is_one_document():
    """The transforms of image and target are described together, each in its place."""
    standard = pytest.importorskip("torchvision.datasets.vision").StandardTransform
    one = standard(T.ToTensor(), None)
    two = standard(None, T.ToTensor())
    assert len({document(one), document(two), document(standard())}) == 3
