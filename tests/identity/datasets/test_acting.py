"""What acts among what a dataset holds: keyed although somebody names the items."""

from __future__ import annotations

import argparse
import functools
import types

import numpy as np
import pytest

from castore.errors import RandomError
from castore.identity.datasets.acting import Search, has_rows
from castore.identity.datasets.rules import samples_of


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


def found(dataset, value=None):
    """Paths of what acts among what a dataset, or a value of it, holds."""
    search = Search(dataset)
    return [path for path, _ in search.within(dataset if value is None else value)]


def test_what_acts_is_named_by_its_place():
    """Paths lead from the dataset to what acts, through attributes, items and parts."""
    data = pytest.importorskip("torch.utils.data")
    dataset = Opaque(steps=[1, {"a": len}], inner=Opaque(transform=abs), size=3)
    assert found(dataset) == ["steps[1]['a']", "inner.transform"]
    joined = data.ConcatDataset([data.Subset(dataset, [0]), Opaque(f=abs)])
    assert found(joined) == [
        "datasets[0].dataset.steps[1]['a']",
        "datasets[0].dataset.inner.transform",
        "datasets[1].f",
    ]


def test_objects_of_other_packages_are_not_gone_through():
    """An index of a library, say, is an item's affair, and may be endless."""
    other = type("Index", (), {"__module__": "pycocotools.coco"})()
    other.hook = abs
    assert found(Opaque(index=other)) == []


def test_one_value_a_sample_is_not_gone_through():
    """Of many samples a list of one value each is the items, whatever the values are."""
    torch = pytest.importorskip("torch")

    class Items(Opaque, torch.utils.data.Dataset):
        """A dataset that torch knows."""

    assert found(Items(2000, items=[abs] * 2000)) == []
    assert len(found(Items(3, items=[abs] * 3))) == 3
    assert len(found(Items(2000, items=[abs] * 2001))) == 2001


def test_plain_containers_are_told_without_going_through_them():
    """Containers of plain values hold nothing that acts, however deep, wide or round they are."""
    search = Search(Opaque())
    within: list = [1, "a"]
    within.append({"again": within})
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    for value in (within, deep, [(i, "x") for i in range(1000)], {1: {(2, 3): {4}}}, "text", None):
        assert not search.reaches(value)
    for value in ([0, [{"a": (abs,)}]], {(1, 2): [Opaque()]}, {abs}):
        assert search.reaches(value)


def test_what_holds_itself_is_gone_through_once():
    """Datasets and containers that hold one another are each gone through once."""
    one, two = Opaque(f=abs), Opaque(g=len)
    one.other, two.other, one.all = two, one, [one, two]
    one.all.append(one.all)
    assert found(one) == ["f", "other.g"]


def test_rows_are_counted_without_trusting_a_length():
    """A value has as many items as samples only if it says so; text never has."""
    assert has_rows([1, 2], 2)
    assert has_rows(np.zeros((2, 3)), 2)
    assert not has_rows("ab", 2)
    assert not has_rows(np.array(1), 2)
    assert not has_rows(2, 2)
    assert not has_rows(Opaque(size=-1), 2)
