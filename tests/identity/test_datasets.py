"""Samples by what they are made of: the same rows wherever a dataset lies and however it is cut."""

from __future__ import annotations

import os
import random
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from castore.canonical import identify
from castore.digest import hexdigest
from castore.errors import FingerprintError
from castore.identity import rows
from castore.identity.datasets.combined import flatten
from castore.identity.datasets.rules import samples_of
from castore.identity.datasets.samples import length_of
from castore.identity.datasets.vouched import named_rows

SOURCE = identify("source", "test")


def ids(dataset, indices=None, **vouched) -> list[str]:
    """Row ids of a dataset, or of some of its samples, as text."""
    if indices is None:
        indices = np.arange(len(dataset))
    flat, flat_indices = flatten(dataset, np.asarray(indices, np.int64))
    return [row.tobytes().hex() for row in samples_of(flat, flat_indices, **vouched).row_ids]


# Arrays and sequences


def test_rows_of_an_array_go_by_their_bytes():
    """Equal rows have one row id, different rows have different ones, in any order."""
    array = np.array([[1, 2], [3, 4], [1, 2]], np.float32)
    a, b, c = ids(array)
    assert a == c != b
    assert ids(array, [1, 0, 1]) == [b, a, b]
    assert ids(np.asfortranarray(array)) == ids(array.astype(">f4")) == [a, b, c]


def test_rows_of_an_array_keep_dtype_and_shape():
    """Rows of equal bytes under another dtype or shape are other rows."""
    arrays = [
        np.zeros((2, 4), np.uint8),
        np.zeros((2, 4), np.int8),
        np.zeros((2, 1), np.float32),
        np.zeros((2, 2, 2), np.uint8),
        np.zeros(2, np.int32),
        np.zeros((2, 0)),
        np.zeros((2, 5, 0)),
    ]
    assert len({ids(array)[0] for array in arrays}) == len(arrays)


def test_a_row_does_not_depend_on_its_neighbours():
    """Rows keep their ids when a dataset grows or is cut."""
    array = np.arange(12.0).reshape(6, 2)
    assert ids(array[2:4]) == ids(array)[2:4]


def test_arrays_of_nothing_have_no_rows():
    """An empty array has no rows, whatever its shape."""
    assert ids(np.zeros((0, 3))) == ids(np.zeros(0)) == ids([]) == []


def test_arrays_without_rows_are_refused():
    """An array without a first axis, or of a dtype without a rule, is refused."""
    with pytest.raises(FingerprintError, match="no length"):
        length_of(np.array(1.0))
    with pytest.raises(FingerprintError, match="dtype object cannot be kept"):
        ids(np.array([None, 1]))
    with pytest.raises(FingerprintError, match="has no length"):
        samples_of(np.array(1.0), np.arange(1))


@given(st.lists(st.one_of(st.integers(0, 2), st.text(max_size=1), st.booleans()), max_size=6))
def test_items_of_a_sequence_go_by_their_values(items):
    """Items of a list have one row id exactly where they are the same typed value."""
    found = ids(items)
    for one, a in zip(items, found, strict=True):
        for two, b in zip(items, found, strict=True):
            assert (a == b) == (type(one) is type(two) and one == two)


def test_lists_and_tuples_are_sequences_of_their_own():
    """A list, a tuple and an array of equal items are different sources."""
    assert len({ids(kind)[0] for kind in ([1], (1,), np.array([1]))}) == 3


def test_items_without_a_rule_are_refused_by_their_place():
    """A list with an item that cannot be encoded is refused, and the item named."""
    with pytest.raises(FingerprintError, match=r"item 1 is a builtins\.object"):
        ids([1, object()])


def test_subclasses_of_sequences_are_refused():
    """A list of the user's own type may read its items in another way."""
    with pytest.raises(FingerprintError, match="no rule for its type"):
        ids(type("Items", (list,), {})([1]))


# Vouching


class Opaque:
    """A dataset castore knows nothing of, and may not read."""

    def __init__(self, size=4, **attributes):
        self.size = size
        self.__dict__.update(attributes)

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        pytest.fail("a dataset vouched for was read")


def test_unknown_datasets_are_refused_with_lines_to_paste():
    """A dataset without a rule is refused: by type, file and line, with what to write instead."""
    with pytest.raises(FingerprintError) as caught:
        ids(Opaque())
    first, *lines = str(caught.value).splitlines()
    assert first.startswith("cannot tell what Opaque (test_datasets.py:")
    assert 'get_or_compute(loader, fn, dataset_id="opaque@1", row_ids=[...])' in lines[0]
    assert "row_ids=castore.file_ids(paths, root=...)" in lines[1]
    assert "def __castore_row_ids__(self, indices)" in lines[2]
    assert 'castore.open(..., on_error="compute")' in lines[3]


def test_datasets_without_a_file_are_refused_by_name():
    """A dataset of a type that was never written to a file is refused as well."""
    space: dict = {"__name__": "nowhere"}
    exec("class Made:\n    def __len__(self): return 1", space)
    with pytest.raises(FingerprintError, match="cannot tell what Made contains"):
        ids(space["Made"]())


def test_datasets_without_a_length_are_refused():
    """A dataset that has no length cannot have its rows named."""
    with pytest.raises(FingerprintError, match="has no length, so its rows cannot be named"):
        flatten(object(), np.arange(1))


def test_vouched_rows_go_by_their_names():
    """Names the caller gives are the rows' identity, under the name of the dataset."""
    names = ["a", "b", "c", "d"]
    found = ids(Opaque(), dataset_id="x@1", names=names)
    assert len(set(found)) == 4
    assert ids(Opaque(), dataset_id="x@1", names=names) == found
    assert ids(Opaque(), [2, 0], dataset_id="x@1", names=["c", "a"]) == [found[2], found[0]]
    assert not set(found) & set(ids(Opaque(), dataset_id="x@2", names=names))


def test_vouched_rows_without_names_go_by_their_index():
    """Without names the index within the dataset is the name."""
    found = ids(Opaque(), dataset_id="x@1")
    assert found == ids(Opaque(), dataset_id="x@1", names=[0, 1, 2, 3])
    assert ids(Opaque(9), [2, 1], dataset_id="x@1") == [found[2], found[1]]


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
    [
        ["a", "b"],
        ("a", "b"),
        np.array(["a", "b"]),
        np.array(["a", "b"], object),
        iter_names := ["a", "b"],
    ],
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
    ],
    ids=repr,
)
def test_other_names_are_refused(names):
    """What is neither text nor integers nor 16 bytes a sample is refused."""
    with pytest.raises(FingerprintError, match="one string or integer a sample"):
        named_rows(SOURCE, names)


@pytest.mark.parametrize("names", [["a", 1], [1, "a"], ["a", 1.5], ["a", True]], ids=repr)
def test_names_of_two_kinds_are_refused(names):
    """Names are all of one kind: an integer among texts does not become its spelling."""
    with pytest.raises(FingerprintError, match="one string or integer a sample"):
        named_rows(SOURCE, names)


def test_names_keep_their_last_characters():
    """Text that ends in NUL is not the text without it."""
    assert not np.array_equal(named_rows(SOURCE, ["a\0"]), named_rows(SOURCE, ["a"]))


def test_vouched_datasets_keep_what_they_do_to_items():
    """Transforms a vouched dataset holds are keyed, the user's own too; the rest is listed."""
    T = pytest.importorskip("torchvision.transforms")  # noqa: N806
    one = Opaque(transform=T.Resize(8))
    assert ids(one, dataset_id="x@1") == ids(Opaque(transform=T.Resize(8)), dataset_id="x@1")
    assert ids(one, dataset_id="x@1") != ids(Opaque(transform=T.Resize(9)), dataset_id="x@1")
    assert ids(one, dataset_id="x@1") != ids(Opaque(), dataset_id="x@1")
    kept = [iter([])]
    own = samples_of(Opaque(transform=lambda x: (x, kept)), np.arange(1), dataset_id="x@1")
    assert own.not_keyed == {"dataset.transform.kept[0]": "builtins.list_iterator"}
    assert ids(Opaque(transform=lambda x: x), dataset_id="x@1") != ids(
        Opaque(transform=lambda x: -x), dataset_id="x@1"
    )


def test_vouched_datasets_with_random_transforms_are_refused():
    """To vouch for the items of a dataset does not make its random transform repeatable."""
    T = pytest.importorskip("torchvision.transforms")  # noqa: N806
    with pytest.raises(FingerprintError, match="random"):
        ids(Opaque(transform=T.RandomCrop(8)), dataset_id="x@1")


# Tensors and subsets


def test_tensor_datasets_go_by_their_values():
    """Two TensorDatasets of equal length differ by a single value of any of their tensors."""
    data = pytest.importorskip("torch.utils.data")
    import torch

    def build(label=0, value=0.0):
        x = torch.zeros(3, 2)
        x[1, 1] = value
        return data.TensorDataset(x, torch.tensor([label, 1, 2]))

    plain = ids(build())
    assert plain == ids(build())
    assert [a == b for a, b in zip(plain, ids(build(label=5)), strict=True)] == [False, True, True]
    assert [a == b for a, b in zip(plain, ids(build(value=1.0)), strict=True)] == [
        True,
        False,
        True,
    ]
    assert ids(build(value=-0.0)) != plain
    one = data.TensorDataset(torch.zeros(3, 2))
    assert not set(ids(one)) & set(plain)


def test_columns_of_a_tensor_dataset_keep_their_borders():
    """The same bytes cut into columns in another way are other rows."""
    data = pytest.importorskip("torch.utils.data")
    import torch

    cuts = [data.TensorDataset(torch.zeros(2, a), torch.zeros(2, 4 - a)) for a in range(5)]
    assert len({ids(dataset)[0] for dataset in cuts}) == 5


def test_tensors_without_values_are_refused():
    """A TensorDataset of tensors that have no plain values is refused."""
    data = pytest.importorskip("torch.utils.data")
    import torch

    with pytest.raises(FingerprintError, match="a meta tensor"):
        ids(data.TensorDataset(torch.zeros(2, device="meta")))


def test_subclasses_that_read_alike_keep_the_rule():
    """A subclass is known while it reads its samples the same way, and unknown once it does not."""
    data = pytest.importorskip("torch.utils.data")
    import torch

    class Named(data.TensorDataset):
        """Says more of itself."""

    class Shifted(data.TensorDataset):
        """Reads in another way."""

        def __getitem__(self, index):
            return super().__getitem__(index + self.shift)

    class Batched(data.TensorDataset):
        """Reads whole batches in another way."""

        def __getitems__(self, indices):
            return [self[i] for i in reversed(indices)]

    class Shorter(data.TensorDataset):
        """Counts in another way."""

        def __len__(self):
            return 1

    class Half(data.Subset):
        """Picks in another way."""

        def __getitem__(self, index):
            return self.dataset[0]

        def __getitems__(self, indices):
            return [self[i] for i in indices]

    x = torch.arange(3.0)
    assert ids(Named(x)) == ids(data.TensorDataset(x))
    for kind in (Shifted, Batched, Shorter):
        with pytest.raises(FingerprintError, match=f"{kind.__name__} "):
            ids(kind(x))
    with pytest.raises(FingerprintError, match="Half "):
        ids(Half(Named(x), [0]))


def test_subsets_are_their_rows():
    """A subset, nested or not, is the rows it picks, whatever type its indices have."""
    data = pytest.importorskip("torch.utils.data")
    import torch

    whole = data.TensorDataset(torch.arange(6.0))
    every = ids(whole)
    chosen = [5, 1, 1, 3]
    expected = [every[i] for i in chosen]
    for indices in (
        chosen,
        tuple(chosen),
        np.array(chosen),
        np.array(chosen, np.uint8),
        torch.tensor(chosen),
        torch.tensor(chosen, dtype=torch.int32),
        [torch.tensor(i) for i in chosen],
        [np.int64(i) for i in chosen],
        [-1, -5, 1, -3],
    ):
        assert ids(data.Subset(whole, indices)) == expected
    assert ids(data.Subset(whole, range(1, 6, 2))) == every[1:6:2]
    assert ids(data.Subset(data.Subset(whole, range(5, -1, -1)), [0, 4, -2, 2])) == expected
    assert ids(data.Subset(data.Subset(whole, []), [])) == []
    first, second = data.random_split(whole, [4, 2], torch.Generator().manual_seed(0))
    assert sorted(ids(first) + ids(second)) == sorted(every)


@settings(max_examples=50)
@given(st.data())
def test_nested_subsets_agree_with_reading_them(draw):
    """Flattened indices, negative ones too, are of the samples that reading the subset gives."""
    data = pytest.importorskip("torch.utils.data")
    import torch

    dataset = data.TensorDataset(torch.arange(7))
    for _ in range(draw.draw(st.integers(0, 3))):
        size = len(dataset)
        picks = st.lists(st.integers(-size, size - 1), max_size=6) if size else st.just([])
        dataset = data.Subset(dataset, draw.draw(picks))
    size = len(dataset)
    picks = st.lists(st.integers(-size, size - 1), max_size=6) if size else st.just([])
    asked = draw.draw(picks)
    _, indices = flatten(dataset, np.array(asked, np.int64))
    assert indices.tolist() == [dataset[i][0].item() for i in asked]


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([6], "index 6 .*outside"),
        ([-7, 0], "index -7 .*outside"),
        ([0.0], "float64"),
        (["a"], "one list of integers"),
        ([True], "bool"),
        ([[0, 1]], "one list of integers"),
        ([2**70], "one list of integers"),
        (np.array(["a"], object), "indices"),
        ([[0], [0, 1]], "indices"),
        (np.array([2**64 - 1], np.uint64), "outside|uint64"),
    ],
    ids=str,
)
def test_indices_that_are_none_are_refused(indices, message):
    """Indices out of range, or no integers, are a FingerprintError, not a guess."""
    data = pytest.importorskip("torch.utils.data")
    import torch

    subset = data.Subset(data.TensorDataset(torch.arange(6.0)), indices)
    with pytest.raises(FingerprintError, match=message):
        flatten(subset, np.arange(len(indices)))


# Image folders


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


def folder(root, **options):
    """Read a folder of images."""
    from torchvision.datasets import ImageFolder

    return ImageFolder(str(root), **options)


def test_image_folders_agree_at_any_mount_point(images, tmp_path, monkeypatch):
    """A copy elsewhere, with other times, by whatever spelling of its path, has the same rows."""
    found = ids(folder(images))
    assert len(set(found)) == 4
    copy = shutil.copytree(images, tmp_path / "elsewhere" / "deep")
    os.utime(copy / "cat/1.png", (0, 0))
    assert ids(folder(copy)) == found
    monkeypatch.chdir(images.parent)
    assert ids(folder("images")) == ids(folder("./images/")) == found
    (tmp_path / "link").symlink_to(images)
    assert ids(folder(tmp_path / "link")) == found


def test_image_folders_are_read_by_content(images):
    """A file replaced under its name is another row, and the others stay."""
    before = ids(folder(images))
    shutil.copy(images / "dog/1.png", images / "cat/1.png")
    after = ids(folder(images))
    assert [a == b for a, b in zip(before, after, strict=True)] == [False, True, True, True]
    assert after[0] != after[2]


def test_image_folders_count_paths_and_targets(images):
    """The same content under another path, or with another target, is another row."""
    before = ids(folder(images))
    (images / "cat/1.png").rename(images / "cat/0.png")
    assert ids(folder(images))[0] != before[0]
    assert ids(folder(images))[1:] == before[1:]
    (images / "bee").mkdir()
    shutil.copy(images / "cat/2.png", images / "bee/2.png")
    shifted = ids(folder(images))
    assert len(shifted) == 5
    assert not set(shifted) & set(before)


def test_image_folders_count_their_transforms(images):
    """Type and parameters of the transforms of image and target are part of every row."""
    from torchvision import transforms

    options = [
        {},
        {"transform": transforms.Resize(8)},
        {"transform": transforms.Resize(9)},
        {"transform": transforms.Compose([transforms.Resize(8), transforms.ToTensor()])},
        {"target_transform": transforms.Resize(8)},
    ]
    found = [ids(folder(images, **o))[0] for o in options]
    assert len(set(found)) == len(options)
    assert found == [ids(folder(images, **o))[0] for o in options]


def test_image_folders_are_made_of_content_target_and_path(images):
    """A row of an image folder is what the format says, under its source."""
    dataset = folder(images)
    samples = samples_of(dataset, np.arange(4))
    items = [
        (
            bytes.fromhex(hexdigest([(images / name).read_bytes()])),
            target.to_bytes(8, "little"),
            name.encode(),
        )
        for name, target in (
            ("cat/1.png", 0),
            ("cat/2.png", 0),
            ("dog/1.png", 1),
            ("dog/sub/3.png", 1),
        )
    ]
    expected = rows.from_items(identify("source", samples.sources[0]), "file+class+path", items)
    assert np.array_equal(samples.row_ids, expected)


def test_subsets_of_image_folders_read_their_own_files_only(images):
    """A subset is the rows it picks, and files it does not pick need not exist."""
    data = pytest.importorskip("torch.utils.data")
    dataset = folder(images)
    every = ids(dataset)
    (images / "dog/1.png").unlink()
    assert ids(data.Subset(dataset, [3, 0])) == [every[3], every[0]]
    with pytest.raises(FingerprintError, match=r"dog/1\.png cannot be read"):
        ids(dataset)


def test_names_that_are_no_unicode_are_paths(images):
    """A file whose name is no text in the file system's encoding has a row like any other."""
    path = os.fsencode(images / "cat") + b"/\xff.png"
    try:
        shutil.copy(images / "cat/1.png", path)
    except OSError:
        pytest.skip("this file system takes Unicode only")
    assert len(set(ids(folder(images)))) == 5
    assert len(set(ids(folder(images), dataset_id="x@1"))) == 5


@pytest.mark.parametrize("name", ["RandomHorizontalFlip", "ColorJitter", "AutoAugment"])
def test_image_folders_with_random_transforms_are_refused(images, name):
    """A random transform of image or target is refused by name."""
    from torchvision import transforms

    random_transform = getattr(transforms, name)()
    for where in ("transform", "target_transform"):
        with pytest.raises(FingerprintError, match=f"holds {name}, which is random"):
            ids(folder(images, **{where: random_transform}))


def test_the_users_code_in_an_image_folder_is_keyed(images):
    """A loader or transform of the user's goes by its code and what it holds."""

    def load(path, size=1):
        return path, size

    def other(path, size=2):
        return path, size

    found = {
        tuple(ids(folder(images, **options)))
        for options in (
            {},
            {"loader": load},
            {"loader": other},
            {"transform": lambda x: x},
            {"transform": lambda x: (x,)},
        )
    }
    assert len(found) == 5
    again = ids(folder(images, transform=lambda image: image))
    assert again != ids(folder(images, transform=lambda x: x))  # names of arguments are code


def test_attributes_without_a_rule_are_refused_by_name(images):
    """An attribute of an image folder that castore has no rule for is refused by its name."""
    dataset = folder(images)
    dataset.frame = object()
    with pytest.raises(FingerprintError, match=r"attribute 'frame' \(builtins\.object\) has no"):
        ids(dataset)


def test_attributes_of_image_folders_are_keyed(images):
    """An attribute that the rule does not name is part of the source."""
    plain, one, two, same = (folder(images) for _ in range(4))
    one.split, two.split, same.split = "train", "val", "train"
    assert len({ids(dataset)[0] for dataset in (plain, one, two)}) == 3
    assert ids(one) == ids(same)


def test_subclasses_of_image_folders_that_read_otherwise_are_refused(images):
    """A subclass with a ``__getitem__`` of its own may read its attributes."""
    from torchvision.datasets import ImageFolder

    class Paths(ImageFolder):
        """Gives the path too."""

        def __getitem__(self, index):
            return (*super().__getitem__(index), self.samples[index][0])

    with pytest.raises(FingerprintError, match="Paths "):
        ids(Paths(str(images)))


def test_other_file_datasets_are_refused(images):
    """A dataset of torchvision's own base class is refused by its name."""
    from torchvision.datasets import VisionDataset

    class Pictures(VisionDataset):
        """Reads what only it knows."""

        def __len__(self):
            return 1

    with pytest.raises(FingerprintError, match="Pictures "):
        ids(Pictures(str(images)))


def test_files_outside_the_root_are_refused(images):
    """A sample that does not lie below the dataset's folder has no relative path."""
    dataset = folder(images)
    dataset.samples[0] = ("/elsewhere/1.png", 0)
    with pytest.raises(FingerprintError, match="is not below"):
        ids(dataset)
    with pytest.raises(FingerprintError, match="is not below"):
        ids(dataset, dataset_id="x@1")


def test_vouched_image_folders_touch_no_file(images):
    """A vouched image folder goes by relative paths, and its files need not exist."""
    dataset = folder(images)
    shutil.rmtree(images)
    found = ids(dataset, dataset_id="pets@1")
    names = ["cat/1.png", "cat/2.png", "dog/1.png", "dog/sub/3.png"]
    assert found == ids(dataset, dataset_id="pets@1", names=names)
    assert len(set(found)) == 4


def test_identity_draws_from_no_generator(images):
    """To identify samples moves neither Python's nor numpy's generator."""
    before = (random.getstate(), str(np.random.get_state()))  # noqa: NPY002
    ids(folder(images))
    assert (random.getstate(), str(np.random.get_state())) == before  # noqa: NPY002
