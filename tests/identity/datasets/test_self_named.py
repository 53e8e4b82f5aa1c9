"""Datasets whose type names its rows, or says what it is."""

from __future__ import annotations

import numpy as np
import pytest

import castore
from castore.errors import FingerprintError, RandomError
from castore.identity.datasets.rules import samples_of
from castore.identity.datasets.samples import Terms


class Named:
    """A dataset whose type names its rows."""

    def __init__(self, names=("a", "b", "c"), **attributes):
        self.names = names
        self.__dict__.update(attributes)

    def __len__(self):
        return 3

    def __getitem__(self, index):
        pytest.fail("a dataset that names its rows was read")

    def __castore_row_ids__(self, indices):
        return [self.names[i] for i in indices]


def test_a_type_may_name_its_rows(ids):
    """``__castore_row_ids__`` is asked for the names of the samples that are wanted, in order."""
    found = ids(Named())
    assert len(set(found)) == 3
    assert ids(Named(), [-1, 0, 0]) == [found[2], found[0], found[0]]
    assert ids(Named(("c", "b", "a"))) == found[::-1]
    assert ids(Named((1, 2, 3))) == ids(Named(np.array([1, 2, 3]))) != ids(Named(("1", "2", "3")))
    digests = np.arange(48, dtype=np.uint8).reshape(3, 16)
    own = type("Named", (Named,), {"__castore_row_ids__": lambda self, i: self.names[i]})
    assert len(set(ids(own(digests)))) == 3


def test_names_of_a_type_serve_the_one_who_vouches(ids):
    """Under ``dataset_id=`` the type's own names are used, if the caller gives none."""
    found = ids(Named(), dataset_id="x@1")
    assert found == ids(Named(), dataset_id="x@1", names=["a", "b", "c"])
    assert not set(found) & set(ids(Named()))


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (lambda self, indices: ["a"], "returned 1 names for 3 samples"),
        (lambda self, indices: ["a"] * 4, "returned 4 names for 3 samples"),
        (lambda self, indices: "abc", "returned one text for 3 samples"),
        (lambda self, indices: None, "raised TypeError"),
        (lambda self, indices: {}[0], "raised KeyError: 0"),
        (lambda self: [], "raised TypeError"),
        (lambda self, indices: [1.5] * 3, "row_ids are of type float"),
        (lambda self, indices: ["a", 1, "b"], "row_ids are of type int, str"),
        (lambda self, indices: ["a", "b", "a"], "must give one name to one sample"),
        (lambda self, indices: [7] * 3, "must give one name to one sample"),
        (lambda self, indices: np.zeros((3, 16), np.uint8), "must give one name to one sample"),
        (lambda self, indices: np.array(3), "raised|returned"),
    ],
)
def test_names_that_are_none_are_refused(ids, names, why):
    """Names that are too few, too many, not names or not distinct are refused by the type's."""
    kind = type("Odd", (Named,), {"__castore_row_ids__": names})
    with pytest.raises(FingerprintError, match=f"cannot tell what Odd .*{why}") as caught:
        ids(kind())
    assert "for good:" in str(caught.value)


def test_lengths_that_lie_are_refused_or_taken_at_their_word(ids):
    """A length beyond the names there are is refused; a shorter one has so many rows."""
    longer, shorter = (type("Lying", (Named,), {"__len__": lambda self, n=n: n}) for n in (4, 2))
    with pytest.raises(FingerprintError, match=r"cannot tell what Lying .*raised IndexError"):
        ids(longer())
    assert len(ids(longer(), [0, 1, 2])) == 3
    assert len(ids(shorter())) == 2
    with pytest.raises(FingerprintError, match=r"index 2 is outside Lying"):
        ids(shorter(), [2])


def test_a_sample_with_two_names_is_refused(ids):
    """A type that names one sample in two ways does not know its samples."""
    kind = type("Odd", (Named,), {"__castore_row_ids__": lambda self, i: list("abcd")[: len(i)]})
    with pytest.raises(FingerprintError, match="one name to one sample"):
        ids(kind(), [0, 0])


def test_attributes_of_a_type_that_names_its_rows_are_keyed(ids):
    """Every attribute counts but lists of one value a sample, and paths, which are listed."""
    found = ids(Named())
    assert found != ids(Named(size=8)) != ids(Named(size=9))
    assert found != ids(Named(mode="train"))
    assert found != ids(Named(transform=lambda x: x))
    assert found == ids(Named(root="/data", labels=[0, 1, 2]))
    samples = samples_of(Named(root="/data", labels=[0, 1, 2], frame=iter([])), np.arange(3))
    assert samples.not_keyed == {"dataset.frame": "builtins.list_iterator"}
    assert samples.left == {
        "dataset.labels": "builtins.list",
        "dataset.names": "builtins.tuple",
        "dataset.root": "builtins.str",
    }


def test_transforms_as_many_as_samples_are_keyed(ids):
    """A list of as many transforms as there are samples is no list of one value a sample."""
    kept = [lambda x: x, lambda x: x, lambda x: x]
    assert ids(Named(steps=kept)) != ids(Named(steps=[*kept[:2], lambda x: -x]))
    torch = pytest.importorskip("torch")
    layers = [torch.nn.Identity(), torch.nn.ReLU(), torch.nn.Tanh()]
    one, two = torch.nn.Sequential(*layers), torch.nn.Sequential(*layers[::-1])
    assert ids(Named(steps=one)) != ids(Named(steps=two))


def test_files_of_a_type_that_names_its_rows_go_by_content(ids, tmp_path):
    """A file as a value is no path: what it contains counts."""
    path = tmp_path / "palette"
    found = []
    for content in ("a", "b", "a"):
        path.write_text(content)
        found.append(ids(Named(palette=castore.file(path))))
    assert found[0] == found[2] != found[1]


def test_code_of_a_type_that_names_its_rows_is_keyed(ids):
    """How samples are read counts; how they are named, counted and shown does not."""

    def make(**methods):
        return type("Made", (Named,), methods)()

    found = ids(make())
    assert found != ids(make(__getitem__=lambda self, index: -index))
    assert found != ids(make(helper=lambda self: 1)) != ids(make(helper=lambda self: 2))
    assert found == ids(make(__repr__=lambda self: "made"))
    names = lambda self, indices: list(np.array(self.names)[indices])  # noqa: E731
    assert found == ids(make(__castore_row_ids__=names))


def test_types_that_refer_to_themselves_have_one_key(ids):
    """A dataset that holds itself, or its own method, has the same rows at any depth of calls."""

    def build():
        dataset = Named()
        dataset.me, dataset.again = dataset, {"me": [dataset]}
        dataset.transform = dataset.__castore_row_ids__
        return dataset

    def deeper(level):
        return ids(build()) if level == 0 else deeper(level - 1)

    assert ids(build()) == deeper(50) != ids(Named())


class Said:
    """A dataset whose type says what it is."""

    def __init__(self, says, **attributes):
        self.says = says
        self.__dict__.update(attributes)

    def __len__(self):
        return 3

    def __castore_fingerprint__(self):
        return self.says() if callable(self.says) else self.says


def test_a_type_may_say_what_it_is(ids):
    """``__castore_fingerprint__`` is the source beside what acts; rows go by their index."""
    found = ids(Said({"version": 1}))
    assert len(set(found)) == 3
    assert found == ids(Said({"version": 1}, root="/data", size=3))
    assert found != ids(Said({"version": 2}))
    assert found != ids(Said({"version": 1}, transform=lambda x: x))
    assert ids(Said(1), [2]) == [ids(Said(1))[2]]
    assert not samples_of(Said(1), np.arange(3)).by_index


def test_a_type_may_say_what_it_is_and_name_its_rows(ids):
    """With both, rows go by their names under what the type says."""
    both = type("Both", (Said, Named), {"names": "abc"})
    assert ids(both(1), [2, 0]) == [ids(both(1))[2], ids(both(1))[0]]
    assert ids(both(1)) == ids(both(1, frame=iter([])))
    assert not set(ids(both(1))) & set(ids(both(2)))


def test_what_fails_to_say_what_it_is_is_refused(ids):
    """A fingerprint that raises, or that castore has no rule for, is refused by its type."""
    with pytest.raises(FingerprintError, match=r"cannot tell what Said .*raised ZeroDivisionError"):
        ids(Said(lambda: 1 // 0))
    with pytest.raises(FingerprintError, match=r"Said\.__castore_fingerprint__\(\).*object"):
        ids(Said(object()))


def test_random_transforms_of_a_type_that_says_what_it_is_are_refused(ids):
    """Saying what a dataset is does not make its random transform repeatable."""
    T = pytest.importorskip("torchvision.transforms")  # noqa: N806
    for kind in (Said(1, transform=T.RandomCrop(8)), Named(transform=T.RandomCrop(8))):
        with pytest.raises(RandomError, match="holds RandomCrop"):
            ids(kind)
        assert samples_of(kind, np.arange(3), Terms(freeze=True)).frozen


def test_datasets_of_another_package_can_be_registered(ids):
    """A function registered for a type says what its datasets are, and those of subclasses."""
    kind = type("Elsewhere", (), {"__len__": lambda self: 2})
    castore.register_fingerprint(kind, lambda dataset: ["elsewhere", dataset.version])
    one, two, sub = kind(), kind(), type("Sub", (kind,), {})()
    one.version, two.version, sub.version = 1, 2, 1
    assert len({*ids(one), *ids(two), *ids(sub)}) == 6
    castore.register_fingerprint(kind, lambda dataset: dataset.version // 0)
    with pytest.raises(FingerprintError, match=r"Elsewhere .*raised ZeroDivisionError"):
        ids(one)
