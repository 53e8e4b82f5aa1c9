"""Rows that somebody names, and what is done to them, which is keyed all the same."""

from __future__ import annotations

import argparse
import functools
import shutil
import types

import numpy as np
import pytest

import castore
from castore.canonical import identify
from castore.errors import ConfigError, FingerprintError, RandomError
from castore.identity import rows
from castore.identity.datasets.rules import samples_of
from castore.identity.datasets.vouched import named_rows

SOURCE = identify("source", "test")


class Opaque:
    """A dataset castore knows nothing of, and may not read."""

    def __init__(self, size=4, **attributes):
        self.size = size
        self.__dict__.update(attributes)

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        pytest.fail("a dataset vouched for was read")

    def plain(self, item):
        """Give the item."""
        return item

    def negative(self, item):
        """Give the negative."""
        return -item


def vouched(dataset, **options):
    """Identify the first samples of a dataset that is vouched for."""
    return samples_of(dataset, np.arange(2), dataset_id="x@1", **options)


# Names


def test_vouched_rows_go_by_their_names(ids):
    """Names the caller gives are the rows' identity, under the name of the dataset."""
    names = ["a", "b", "c", "d"]
    found = ids(Opaque(), dataset_id="x@1", names=names)
    assert len(set(found)) == 4
    assert ids(Opaque(), dataset_id="x@1", names=names) == found
    assert ids(Opaque(), [2, 0], dataset_id="x@1", names=["c", "a"]) == [found[2], found[0]]
    assert not set(found) & set(ids(Opaque(), dataset_id="x@2", names=names))


def test_vouched_rows_without_names_go_by_their_index(ids):
    """Without names the index within the dataset is the name, and that is said."""
    found = ids(Opaque(), dataset_id="x@1")
    assert found == ids(Opaque(), dataset_id="x@1", names=[0, 1, 2, 3])
    assert ids(Opaque(9), [2, 1], dataset_id="x@1") == [found[2], found[1]]
    assert ids(Opaque(), [-1], dataset_id="x@1") == found[3:]
    assert vouched(Opaque()).by_index
    assert not vouched(Opaque(), names=["a", "b"]).by_index


@pytest.mark.parametrize(
    "names",
    [
        [1, 2, 3],
        (1, 2, 3),
        range(1, 4),
        np.array([1, 2, 3]),
        np.array([1, 2, 3], np.int8),
        np.array([1, 2, 3], np.uint32),
        np.array([1, 2, 3], ">i4"),
        [np.int64(1), np.int32(2), 3],
        np.arange(1, 7)[::2] // 2 + 1,
    ],
    ids=repr,
)
def test_integers_of_every_kind_are_one_name(names):
    """An integer is one name, of whatever type, width and byte order."""
    expected = rows.from_integers(SOURCE, np.array([1, 2, 3]))
    assert np.array_equal(named_rows(SOURCE, names), expected)


def test_integers_beyond_63_bits_are_names():
    """An unsigned integer that fits 64 bits is taken or refused, never mistaken for another."""
    big = np.array([2**63, 1], np.uint64)
    try:
        found = named_rows(SOURCE, big)
    except FingerprintError:
        return
    assert not np.array_equal(found[0], named_rows(SOURCE, [-(2**63)])[0])


@pytest.mark.parametrize(
    "names",
    [["a", "b"], ("a", "b"), np.array(["a", "b"]), np.array(["a", "b"], object)],
    ids=lambda names: f"{type(names).__name__} {getattr(names, 'dtype', '')}",
)
def test_text_of_every_kind_is_one_name(names):
    """Text is one name, in a list, tuple or array."""
    assert np.array_equal(named_rows(SOURCE, names), rows.from_names(SOURCE, ["a", "b"]))


def test_text_and_integers_are_different_names():
    """The names 1 and "1" are two."""
    assert not np.array_equal(named_rows(SOURCE, ["1"]), named_rows(SOURCE, [1]))


def test_sixteen_bytes_are_names():
    """Digests of 16 bytes each, uint8 (n, 16), are names of a kind of their own."""
    digests = np.arange(32, dtype=np.uint8).reshape(2, 16)
    found = named_rows(SOURCE, digests)
    assert np.array_equal(found, named_rows(SOURCE, np.asfortranarray(digests)))
    assert len(np.unique(found, axis=0)) == 2
    assert not np.array_equal(found, named_rows(identify("source", "other"), digests))


@pytest.mark.parametrize(
    "names",
    [
        [1.0, 2.0],
        [True, False],
        [b"a", b"b"],
        [None, "a"],
        [[1, 2], [3, 4]],
        np.zeros((2, 15), np.uint8),
        np.zeros((2, 16), np.int8),
        [2**70, 1],
        ["a", 1],
        [1, "a"],
        ["a", 1.5],
        ["a", True],
    ],
    ids=repr,
)
def test_other_names_are_refused(names):
    """What is neither text nor integers nor 16 bytes a sample, all of one kind, is refused."""
    with pytest.raises(FingerprintError, match="one string or integer a sample"):
        named_rows(SOURCE, names)


def test_names_keep_their_last_characters():
    """Text that ends in NUL is not the text without it."""
    assert not np.array_equal(named_rows(SOURCE, ["a\0"]), named_rows(SOURCE, ["a"]))


def test_names_that_are_no_unicode_are_names():
    """A lone surrogate, which stands for a byte of a file's name, is a character like any other."""
    assert len(np.unique(named_rows(SOURCE, ["\udcff", "\udcfe", "?"]), axis=0)) == 3


# What is done to the items


@pytest.mark.parametrize(
    "holding",
    [
        lambda code: Opaque(transform=code),
        lambda code: Opaque(transforms=[None] * 20 + [code]),
        lambda code: Opaque(steps={"train": [code], "size": 3}),
        lambda code: Opaque(steps=[(0, [{"a": (code,)}])]),
        lambda code: Opaque(steps={(0, 1): code}),
        lambda code: Opaque(steps={code}),
        lambda code: Opaque(options=argparse.Namespace(augment=code)),
        lambda code: Opaque(options=types.SimpleNamespace(augment=[code])),
        lambda code: Opaque(inner=Opaque(transform=code)),
        lambda code: type("Sub", (Opaque,), {"steps": [code]})(),
        lambda code: type("Sub", (Opaque,), {"__slots__": ("code",)})(code=code),
    ],
    ids=[
        "attribute",
        "list",
        "dict of lists",
        "nested",
        "dict by tuple",
        "set",
        "namespace",
        "simple namespace",
        "own object",
        "class",
        "slot",
    ],
)
def test_what_acts_is_found_wherever_a_dataset_holds_it(holding):
    """A transform of a vouched dataset counts, or is listed, however deep it is held."""

    def double(x):
        return 2 * x

    def triple(x):
        return 3 * x

    def slotted(code):
        dataset = holding(code)
        if "code" in vars(dataset):
            del dataset.__dict__["code"]
            type(dataset).code.__set__(dataset, code)
        return dataset

    one, two, again = (vouched(slotted(code)) for code in (double, triple, double))
    assert np.array_equal(one.row_ids, again.row_ids)
    assert not np.array_equal(one.row_ids, two.row_ids) or one.not_keyed


def test_parts_and_what_is_wrapped_count():
    """Transforms of parts in subsets, concatenations and stacks, and of what is wrapped, count."""
    data = pytest.importorskip("torch.utils.data")

    class Wrapped(data.Dataset):
        """Reads another dataset in its own way."""

        def __init__(self, inner):
            self.inner = inner

        def __len__(self):
            return 2

    def source(wrap, factor):
        part = Wrapped(None)
        part.transform = functools.partial(lambda x, k: x * k, k=factor)
        return vouched(wrap(part)).sources[0]

    for wrap in (
        lambda part: part,
        lambda part: data.Subset(part, [1, 0]),
        lambda part: data.ConcatDataset([data.Subset(part, [1, 0]), part]),
        lambda part: data.StackDataset(x=part),
        lambda part: data.Subset(data.StackDataset(data.ConcatDataset([part])), [1, 0]),
        Wrapped,
        lambda part: Wrapped([data.Subset(part, [0])]),
        lambda part: Wrapped({"train": Wrapped(part)}),
    ):
        assert source(wrap, 1) == source(wrap, 1)
        assert source(wrap, 1) != source(wrap, 2)


def test_items_of_a_vouched_dataset_do_not_count(ids):
    """Other attributes do not: the caller says what they come to."""
    found = ids(Opaque(), dataset_id="x@1")
    assert found == ids(Opaque(paths=["/a", "/b"], frame=iter([])), dataset_id="x@1")
    assert found == ids(Opaque(notes={"a": [1, (2, {3})]}), dataset_id="x@1")


def test_vouched_datasets_keep_what_they_do_to_items(ids):
    """Transforms a vouched dataset holds are keyed, the user's own too; the rest is listed."""
    T = pytest.importorskip("torchvision.transforms")  # noqa: N806
    one = Opaque(transform=T.Resize(8))
    assert ids(one, dataset_id="x@1") == ids(Opaque(transform=T.Resize(8)), dataset_id="x@1")
    assert ids(one, dataset_id="x@1") != ids(Opaque(transform=T.Resize(9)), dataset_id="x@1")
    assert ids(one, dataset_id="x@1") != ids(Opaque(), dataset_id="x@1")
    kept = [iter([])]
    own = vouched(Opaque(transform=lambda x: (x, kept)))
    assert own.not_keyed == {"dataset.transform.kept[0]": "builtins.list_iterator"}
    assert ids(Opaque(transform=lambda x: x), dataset_id="x@1") != ids(
        Opaque(transform=lambda x: -x), dataset_id="x@1"
    )


def test_models_of_a_vouched_dataset_are_keyed(ids):
    """A module among the attributes counts by its weights."""
    torch = pytest.importorskip("torch")
    found = set()
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.add(tuple(ids(Opaque(encoder=torch.nn.Linear(2, 2)), dataset_id="x@1")))
    assert len(found) == 2


def test_methods_of_a_vouched_dataset_are_keyed_by_code(ids):
    """A transform that is a method of the dataset counts by its code, not by the items."""

    def build(method, paths):
        dataset = Opaque(paths=paths)
        dataset.transform = getattr(dataset, method)
        return dataset

    one = ids(build("plain", ["/a"]), dataset_id="x@1")
    assert one == ids(build("plain", ["/b"]), dataset_id="x@1")
    assert one != ids(build("negative", ["/a"]), dataset_id="x@1")


def test_vouched_datasets_with_random_transforms_are_refused(ids):
    """To vouch for the items of a dataset does not make its random transform repeatable."""
    T = pytest.importorskip("torchvision.transforms")  # noqa: N806
    with pytest.raises(RandomError, match="transform holds RandomCrop, which is random"):
        ids(Opaque(transform=T.RandomCrop(8)), dataset_id="x@1")
    assert len(ids(Opaque(transform=T.RandomCrop(8)), dataset_id="x@1", freeze=True)) == 4


def test_nothing_can_be_ignored_of_vouched_rows(ids, images):
    """The target is no part of a vouched row, so it cannot be left out of it."""
    for dataset in (Opaque(), pytest.importorskip("torchvision.datasets").ImageFolder(images)):
        with pytest.raises(ConfigError, match="of these samples nothing can be ignored"):
            ids(dataset, dataset_id="x@1", ignored=["target"])


def test_vouched_files_are_not_touched(ids, images):
    """A vouched image folder goes by relative paths, and its files need not exist."""
    dataset = pytest.importorskip("torchvision.datasets").ImageFolder(str(images))
    shutil.rmtree(images)
    found = ids(dataset, dataset_id="pets@1")
    names = ["cat/1.png", "cat/2.png", "dog/1.png", "dog/sub/3.png"]
    assert found == ids(dataset, dataset_id="pets@1", names=names)
    assert len(set(found)) == 4
    assert not vouched(dataset).by_index


def test_broken_datasets_are_refused_when_vouched_for(ids, images):
    """What goes wrong in reading names or attributes is a refusal, whatever it raises."""
    dataset = pytest.importorskip("torchvision.datasets").ImageFolder(str(images))
    dataset.samples[1] = None
    with pytest.raises(FingerprintError, match="ImageFolder .*reading it raised TypeError"):
        ids(dataset, dataset_id="x@1")


# Types that say what they are


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
    assert samples.not_keyed == {
        "dataset.frame": "builtins.list_iterator",
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
    with pytest.raises(FingerprintError, match="cannot tell what Said .*raised ZeroDivisionError"):
        ids(Said(lambda: 1 // 0))
    with pytest.raises(FingerprintError, match=r"Said\.__castore_fingerprint__\(\).*object"):
        ids(Said(object()))


def test_random_transforms_of_a_type_that_says_what_it_is_are_refused(ids):
    """Saying what a dataset is does not make its random transform repeatable."""
    T = pytest.importorskip("torchvision.transforms")  # noqa: N806
    for kind in (Said(1, transform=T.RandomCrop(8)), Named(transform=T.RandomCrop(8))):
        with pytest.raises(RandomError, match="holds RandomCrop"):
            ids(kind)
        assert samples_of(kind, np.arange(3), None or _freezing()).frozen


def _freezing():
    from castore.identity.datasets.samples import Terms

    return Terms(freeze=True)


def test_datasets_of_another_package_can_be_registered(ids):
    """A function registered for a type says what its datasets are, and those of subclasses."""
    kind = type("Elsewhere", (), {"__len__": lambda self: 2})
    castore.register_fingerprint(kind, lambda dataset: ["elsewhere", dataset.version])
    one, two, sub = kind(), kind(), type("Sub", (kind,), {})()
    one.version, two.version, sub.version = 1, 2, 1
    assert len({*ids(one), *ids(two), *ids(sub)}) == 6
    castore.register_fingerprint(kind, lambda dataset: dataset.version // 0)
    with pytest.raises(FingerprintError, match="Elsewhere .*raised ZeroDivisionError"):
        ids(one)
