"""Requests: a key changes exactly where what identifies a result changes."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from castore.canonical import identify
from castore.errors import ConfigError, FingerprintError
from castore.identity import rows
from castore.identity.function import describe_function
from castore.identity.loader import indices
from castore.identity.request import identify_inputs, identify_loader

SAMPLES = np.arange(12, dtype=np.float32).reshape(6, 2)
K = 1


def extract(loader):
    """Extract."""
    return loader


def other(loader):
    """Extract something else."""
    return loader, loader


def enclosing(k):
    """Make a function that uses `k`."""

    def fn(loader):
        return loader, k

    return fn


def key_of(loader=SAMPLES, fn=None, suffix="features", dataset_id=None, row_ids=None, **what):
    """Key of a request."""
    function = describe_function(fn, suffix, **what)
    return identify_loader(function, loader, dataset_id=dataset_id, row_ids=row_ids).key


# Functions and tables

components = st.fixed_dictionaries(
    {
        "suffix": st.sampled_from(["a", "b", "ab"]),
        "version": st.sampled_from([None, 1, "1", 2, 1.0, True]),
        "params": st.sampled_from([None, {"n": 1}, {"n": "1"}, {"n": 1.0}, {"m": 1}, {"n": [1]}]),
        "model": st.sampled_from([None, "0" * 32, "1" * 32]),
        "picked": st.sampled_from([(0, 1, 2), (2, 1, 0), (0, 1), (0, 1, 3), (0, 0, 1), ()]),
        "k": st.sampled_from([1, 2, "1", (1,), [1]]),
    }
)


def key_of_components(*, suffix, version, params, model, picked, k):
    """Key of a request with these components."""
    return key_of(
        SAMPLES[list(picked)],
        enclosing(k),
        suffix,
        version=version,
        params=params,
        model=model,
    )


def same(one, two):
    """Tell whether two choices of components are typed the same, in whatever order they came."""
    return repr(sorted(one.items())) == repr(sorted(two.items()))


@given(components, components)
def test_a_key_changes_where_a_component_does(one, two):
    """Two keys agree exactly where suffix, version, params, model, captures, rows and order do."""
    agree = key_of_components(**one) == key_of_components(**two)
    assert agree == same(one, two)


@given(components, st.data())
def test_a_key_changes_with_any_one_component(one, data):
    """A request that differs in one component alone has another key."""
    name = data.draw(st.sampled_from(sorted(one)))
    two = {**one, name: data.draw(components)[name]}
    assert (key_of_components(**one) == key_of_components(**two)) == same(one, two)


def test_keys_are_digests_of_their_derivations():
    """Table id and key are the digests of the documents that are stored to explain them."""
    function = describe_function(extract, "features", params={"n": 1}, version=2)
    request = identify_loader(function, SAMPLES)
    assert function.table == identify("table", function.derivation)
    assert request.key == identify("key", request.derivation)
    assert request.derivation == {
        "rows": [6, rows.digest_rows(request.row_ids)],
        "table": function.table,
        "variant": {"batch_size": None, "collate": None, "whole": True},
    }
    assert request.rows == 6
    assert request.documents() == {
        "entry": request.derivation,
        "not_keyed": {},
        "recorded": function.recorded,
        "sources": [{"dataset": "array"}],
        "table": function.derivation,
    }


def test_one_table_serves_every_loader():
    """Which rows are asked for is in the key, not in the table."""
    function = describe_function(extract, "features")
    one, two = (identify_loader(function, samples) for samples in (SAMPLES, SAMPLES[:3]))
    assert one.function.table == two.function.table
    assert one.key != two.key
    assert np.array_equal(one.row_ids[:3], two.row_ids)


def test_code_is_keyed_where_no_suffix_names_the_function():
    """Two functions without a suffix differ by their code; with a suffix it is only recorded."""
    assert key_of(fn=extract, suffix="") != key_of(fn=other, suffix="")
    assert key_of(fn=extract, suffix="x") == key_of(fn=other, suffix="x") == key_of(suffix="x")
    assert describe_function(extract, "x").recorded["functions"].keys() == {"fn"}
    assert "functions" not in describe_function(extract, "x").derivation


def test_captured_values_are_keyed_under_a_suffix_too():
    """A suffix names the function, not the values it captures."""
    assert key_of(fn=enclosing(1)) != key_of(fn=enclosing(2))
    assert describe_function(enclosing(1), "x").derivation["captured"] == {"fn.k": 1}


def test_ignored_captures_are_left_out():
    """`ignore=` leaves a captured value out of the key, and only that one."""
    ignored = [key_of(fn=enclosing(k), ignore=["fn.k"]) for k in (1, 2)]
    assert ignored[0] == ignored[1]
    assert ignored[0] != key_of(fn=enclosing(1))
    assert describe_function(enclosing(1), "x", ignore=("fn.k",)).derivation["captured"] == {}


def test_the_name_of_a_function_is_for_messages():
    """A function is called by its own name, or by its suffix where there is none."""
    assert describe_function(extract, "x").name == "extract"
    assert describe_function(None, "x").name == "x"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"suffix": 3}, "suffix is 3: give a string"),
        ({"suffix": None}, "suffix is None: give a string"),
        ({"suffix": b"x"}, "suffix is b'x': give a string"),
        ({"suffix": "", "fn": None}, "without a function there must be a suffix"),
        ({"ignore": ["fn.zz"]}, "ignore='fn.zz' is no part of this key: fn.k, .* can be ignored"),
        ({"ignore": ["x"], "fn": extract}, "ignore='x' is no part of this key: batch_size, "),
        ({"ignore": "fn.k"}, "ignore"),
        ({"model": 3}, "model=3: pass a torch module"),
        ({"model": object}, "model=.*: pass a torch module"),
        ({"model": ["digest", 3]}, "model=.*: pass a torch module"),
        ({"fn": 3}, "fn is 3: give a function"),
        ({"params": 3}, "params is 3: give a dict"),
        ({"params": [1, 2]}, "params is .1, 2.: give a dict"),
        ({"row_ids": ["a"] * 6}, "give dataset_id= too"),
        ({"dataset_id": 3}, "dataset_id is 3: give a string"),
        ({"dataset_id": ""}, "dataset_id is '': give a string"),
        ({"dataset_id": "x", "row_ids": 3}, "row_ids"),
    ],
    ids=lambda value: repr(value).partition(" at 0x")[0],
)
def test_unsuitable_arguments_are_named(arguments, message):
    """An argument that cannot be used is a ConfigError that names it and says what to give."""
    with pytest.raises(ConfigError, match=message):
        key_of(**{"fn": enclosing(1), **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"params": {"f": object()}}, r"params\['f'\] is a builtins.object"),
        ({"version": object()}, "version is a builtins.object"),
        ({"loader": [object()]}, "item 0"),
    ],
    ids=lambda value: repr(value).partition(" at 0x")[0],
)
def test_values_without_a_rule_are_named(arguments, message):
    """A parameter, version or sample that cannot be encoded is a FingerprintError that names it."""
    with pytest.raises(FingerprintError, match=message):
        key_of(**arguments)


# Inputs


def test_inputs_are_keyed_by_name_and_value():
    """A computation of inputs has a key that changes with the function, any name and any value."""
    function = describe_function(None, "fid")
    inputs = [
        {"a": SAMPLES, "n": 1},
        {"a": SAMPLES, "n": 2},
        {"a": SAMPLES, "m": 1},
        {"a": SAMPLES + 1, "n": 1},
        {"a": SAMPLES},
        {},
    ]
    keys = [identify_inputs(function, given_inputs).key for given_inputs in inputs]
    keys.append(identify_inputs(describe_function(None, "other"), inputs[0]).key)
    assert len(set(keys)) == len(keys)
    again = identify_inputs(function, {"n": 1, "a": SAMPLES.copy()})
    assert again.key == keys[0]
    assert again.row_ids is None
    assert again.rows is None


def test_inputs_without_a_rule_are_named():
    """An input that cannot be encoded is refused by its name."""
    with pytest.raises(FingerprintError, match=r"inputs\['bank'\] is a builtins.object"):
        identify_inputs(describe_function(None, "fid"), {"bank": object()})


def test_inputs_and_rows_have_different_keys():
    """A result of inputs is never taken for one of rows."""
    function = describe_function(None, "fid")
    assert identify_inputs(function, {}).key != identify_loader(function, np.empty((0, 2))).key


# Vouching


def vouched(loader, row_ids=None, dataset_id="x@1"):
    """Row ids of a loader that is vouched for, as text."""
    request = identify_loader(
        describe_function(None, "x"), loader, dataset_id=dataset_id, row_ids=row_ids
    )
    return [row.tobytes().hex() for row in request.row_ids]


NAMES = {
    "text": ["a", "b", "c", "d", "e", "f"],
    "integers": [10, 11, 12, 13, 14, 15],
    "an array of integers": np.arange(10, 16),
    "an array of text": np.array(list("abcdef")),
    "an array of objects": np.array(list("abcdef"), object),
    "digests": np.arange(96, dtype=np.uint8).reshape(6, 16),
    "an iterator": range(6),
}


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_names_of_every_kind_name_one_row_each(names):
    """Names are taken as text, integers or digests of 16 bytes, one a sample."""
    found = vouched(SAMPLES, names)
    assert len(set(found)) == 6
    assert found == vouched(SAMPLES + 1, names)
    assert found != vouched(SAMPLES, names, "x@2")


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_names_follow_the_loaders_order(names):
    """A loader that gives some of the samples gives their names, in its order."""
    data = pytest.importorskip("torch.utils.data")
    every = vouched(SAMPLES, names)
    loader = data.DataLoader(SAMPLES, sampler=[4, 0, -1])
    assert vouched(loader, names) == [every[4], every[0], every[5]]


def test_names_may_be_those_of_a_subset_or_of_what_is_below_it():
    """Names are of the loader's dataset or of the one below its subsets, as their count says."""
    data = pytest.importorskip("torch.utils.data")
    every = vouched(SAMPLES, list("abcdef"))
    inner = data.Subset(SAMPLES, [5, 3, 1, 0])
    outer = data.Subset(inner, [2, 0])
    loader = data.DataLoader(outer)
    expected = [every[1], every[5]]
    assert vouched(loader, list("abcdef")) == expected
    assert vouched(loader, ["b", "f"]) == expected
    with pytest.raises(FingerprintError, match="row_ids has 4 names for 2 samples"):
        vouched(loader, list("abcd"))


def test_names_that_may_follow_two_orders_are_refused():
    """Whose names they are is not known where a permuted subset has as many samples as all."""
    data = pytest.importorskip("torch.utils.data")
    permuted = data.DataLoader(data.Subset(SAMPLES, [5, 4, 3, 2, 1, 0]))
    with pytest.raises(FingerprintError, match="through a loader without Subset"):
        vouched(permuted, list("abcdef"))
    same = data.DataLoader(data.Subset(SAMPLES, range(6)))
    assert vouched(same, list("abcdef")) == vouched(SAMPLES, list("abcdef"))


@pytest.mark.parametrize("names", [list("abcde"), list("abcdefg"), [], range(5)], ids=str)
def test_a_wrong_count_of_names_is_refused(names):
    """There is one name a sample: other counts are refused with both numbers."""
    with pytest.raises(FingerprintError, match=f"row_ids has {len(names)} names for 6 samples"):
        vouched(SAMPLES, names)


@pytest.mark.parametrize(
    "names",
    [
        list("abcdea"),
        [1, 2, 3, 4, 5, 1],
        np.zeros((6, 16), np.uint8),
        np.array([1, 2, 3, 4, 5, 1], np.int8),
        np.array(list("abcdea"), object),
    ],
    ids=lambda names: f"{type(names).__name__} {getattr(names, 'dtype', '')}",
)
def test_repeated_names_are_refused(names):
    """A name identifies one sample: names given twice are refused, with their number."""
    with pytest.raises(FingerprintError, match=r"row_ids repeats [15] name"):
        vouched(SAMPLES, names)


def test_a_row_asked_for_twice_is_one_row():
    """Names are unique among samples, while a loader may give a sample twice."""
    data = pytest.importorskip("torch.utils.data")
    a, b, c = vouched(data.DataLoader(SAMPLES, sampler=[2, 2, 1]), list("abcdef"))
    assert a == b != c


# Loaders


def loader_keys(build, **options):
    """Key of a loader over six samples."""
    data = pytest.importorskip("torch.utils.data")
    return key_of(data.DataLoader(build(data), **{"batch_size": 2, **options}))


def test_a_key_changes_with_what_the_loader_gives():
    """Batch size, collate, rows and their order are in the key; what only moves data is not."""
    data = pytest.importorskip("torch.utils.data")

    def whole(_):
        return SAMPLES

    keys = [
        loader_keys(whole),
        loader_keys(whole, batch_size=3),
        loader_keys(whole, batch_size=None),
        loader_keys(whole, batch_size=4),
        loader_keys(whole, batch_size=4, drop_last=True),
        loader_keys(whole, collate_fn=extract),
        loader_keys(whole, collate_fn=enclosing(1)),
        loader_keys(whole, sampler=[5, 4, 3, 2, 1, 0]),
        loader_keys(lambda data: data.Subset(SAMPLES, [0, 1])),
        loader_keys(lambda data: data.Subset(SAMPLES, [1, 0])),
        loader_keys(lambda _: SAMPLES + 1),
    ]
    assert len(set(keys)) == len(keys)
    same = [
        loader_keys(whole, drop_last=True),
        loader_keys(whole, num_workers=2),
        loader_keys(whole, shuffle=True),
        loader_keys(whole, in_order=False),
        loader_keys(whole, sampler=data.SubsetRandomSampler(range(6))),
        loader_keys(lambda data: data.Subset(SAMPLES, range(-6, 0))),
        loader_keys(lambda data: data.Subset(data.Subset(SAMPLES, range(6)), np.arange(6))),
    ]
    assert set(same) == {keys[0]}


def test_an_array_and_a_loader_of_its_samples_have_different_keys():
    """A function given an array sees another thing than one given a loader without batches."""
    assert key_of() != loader_keys(lambda _: SAMPLES, batch_size=None)


def test_streams_are_keyed_by_the_name_of_their_dataset():
    """An IterableDataset needs a name, and then has a key without rows."""
    data = pytest.importorskip("torch.utils.data")

    class Stream(data.IterableDataset):
        def __iter__(self):
            pytest.fail("fingerprinting iterated the stream")

    def key(dataset_id=None, **options):
        return key_of(data.DataLoader(Stream(), **options), dataset_id=dataset_id)

    with pytest.raises(FingerprintError, match=r'IterableDataset.*\n.*dataset_id="stream@1"'):
        key()
    keys = [key("s@1"), key("s@2"), key("s@1", batch_size=2), key("s@1", num_workers=2)]
    assert len(set(keys)) == 4
    assert key("s@1") == keys[0]
    function = describe_function(None, "x")
    request = identify_loader(function, data.DataLoader(Stream()), dataset_id="s@1")
    assert request.row_ids is None
    with pytest.raises(FingerprintError, match="IterableDataset has no indices"):
        indices(data.DataLoader(Stream()))


def test_names_for_a_stream_are_refused():
    """A stream has no rows that names could be given to, so they are not ignored."""
    data = pytest.importorskip("torch.utils.data")

    class Stream(data.IterableDataset):
        def __iter__(self):
            pytest.fail("fingerprinting iterated the stream")

    with pytest.raises((ConfigError, FingerprintError), match="row_ids"):
        key_of(data.DataLoader(Stream()), dataset_id="s@1", row_ids=[1, 2])


def test_indices_are_those_of_the_rows():
    """`castore.indices` gives the dataset's indices in the order rows come back."""
    data = pytest.importorskip("torch.utils.data")
    found = indices(data.DataLoader(SAMPLES, sampler=[3, 1], batch_size=2))
    assert found.dtype == np.int64
    assert found.tolist() == [3, 1]
    assert indices(SAMPLES).tolist() == [0, 1, 2, 3, 4, 5]


def test_what_is_not_keyed_is_named_with_the_request():
    """What a function, a collate and a vouched dataset hold without a rule is listed together."""
    data = pytest.importorskip("torch.utils.data")

    class Own(data.Dataset):
        def __init__(self):
            self.transform = enclosing(iter([]))

        def __len__(self):
            return 2

    loader = data.DataLoader(Own(), collate_fn=enclosing(iter([])))
    function = describe_function(enclosing(iter([])), "x")
    request = identify_loader(function, loader, dataset_id="x@1")
    assert request.not_keyed == {
        "fn.k": "builtins.list_iterator",
        "collate_fn.k": "builtins.list_iterator",
        "dataset.transform.k": "builtins.list_iterator",
    }
    assert request.documents()["not_keyed"] == request.not_keyed


def test_names_that_are_no_names_are_refused():
    """A list in the place of a name is refused by what it is."""
    with pytest.raises(FingerprintError, match="row_ids holds a list"):
        vouched(SAMPLES, [[1], [2], [3], [4], [5], [6]])


def test_names_stand_for_samples_of_a_subset_by_keys():
    """A subset whose indices are keys is named one a sample of its own, as its refusal says."""
    data = pytest.importorskip("torch.utils.data")
    subset = data.Subset({"a": 1, "b": 2, "c": 3}, ["c", "a"])
    with pytest.raises(FingerprintError, match="one list of integers"):
        vouched(data.DataLoader(subset), None)
    found = vouched(data.DataLoader(subset), ["c", "a"])
    assert found == vouched(data.DataLoader([3, 1]), ["c", "a"])
    with pytest.raises(FingerprintError):
        vouched(data.DataLoader(subset), ["a", "b", "c"])


def notices_of(fn, loader=SAMPLES, **vouched_for):
    """What a user should know about a request."""
    return identify_loader(describe_function(fn, "x"), loader, **vouched_for).notices()


def test_what_is_not_keyed_is_said():
    """A user is told what is not part of the key, and nothing where all of it is."""
    assert notices_of(None) == []
    said = " ".join(notices_of(enclosing(iter([]))))
    assert "fn: not part of the key: fn.k (builtins.list_iterator)" in said
    assert "not part of the key" not in " ".join(notices_of(enclosing(1)))


def test_rows_named_by_index_are_said_to_be():
    """A user who vouches without names is told that to insert a sample renumbers the rest."""
    assert "row_ids= gives them names" in " ".join(notices_of(None, dataset_id="x@1"))
    assert notices_of(None, dataset_id="x@1", row_ids=list("abcdef")) == []


def test_a_function_without_a_model_is_said_to_have_none():
    """A user whose function holds no module is told how to name one, unless told there is none."""
    pytest.importorskip("torch")
    assert "model=None" in " ".join(notices_of(extract))
    silent = describe_function(extract, "x", model=None)
    assert identify_loader(silent, SAMPLES).notices() == []
    assert notices_of(enclosing(net())) == []


# Models


def net(value=0.0):
    """A model of one weight."""
    torch = pytest.importorskip("torch")
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, value)
    return model.eval()


def test_a_model_is_found_or_named_alike():
    """A model found in the function, passed, passed in a list or by its digest gives one key."""
    from castore.identity.models.snapshot import hash_model

    keys = {
        key_of(fn=enclosing(net())),
        key_of(fn=enclosing(1), ignore=["fn.k"], model=net()),
        key_of(model=[net()]),
        key_of(model=hash_model(net())),
    }
    assert len(keys) == 1
    assert key_of(model=net(1.0)) not in keys
    assert key_of(model=None) not in keys


def test_several_models_are_told_apart_by_place():
    """Of several models each counts, and which is which."""
    keys = [
        key_of(model=[net(0), net(1)]),
        key_of(model=[net(1), net(0)]),
        key_of(model=[net(0), net(0)]),
        key_of(model=[net(0)]),
        key_of(fn=enclosing({"a": net(0), "b": net(1)})),
        key_of(fn=enclosing({"a": net(1), "b": net(0)})),
    ]
    assert len(set(keys)) == len(keys)
    assert key_of(model=(net(0), net(1))) == keys[0]


def test_no_model_is_one_that_is_not_there():
    """`model=None` keys no model, also where one could be found."""
    assert key_of(fn=enclosing(net()), model=None) == key_of(fn=enclosing(net(1.0)), model=None)
    assert key_of(fn=extract, model=None) == key_of(fn=extract)


def test_found_models_are_listed_unwrapped_with_what_they_hide():
    """A request holds the modules themselves, and names their attributes that have no rule."""
    torch = pytest.importorskip("torch")
    model = net()
    model.helper = object()
    function = describe_function(enclosing(torch.nn.DataParallel(model)), "x")
    assert list(function.models.values()) == [model]
    assert function.recorded["models"] == ["fn.k"]
    assert function.not_keyed == {"fn.k.helper": "builtins.object"}


def test_the_captured_loader_is_left_out():
    """A function that holds the very loader it will be given is keyed without it."""
    data = pytest.importorskip("torch.utils.data")
    loader = data.DataLoader(SAMPLES)
    assert describe_function(enclosing(loader), "x", loader=loader).not_keyed == {}


def test_identification_moves_no_generator():
    """To identify a request with a model and a shuffled loader draws no random number."""
    torch = pytest.importorskip("torch")
    model = net()
    loader = torch.utils.data.DataLoader(SAMPLES, shuffle=True)

    def states():
        legacy = str(np.random.get_state())  # noqa: NPY002
        return random.getstate(), legacy, torch.get_rng_state().tolist()

    before = states()
    key_of(loader, enclosing(model))
    assert states() == before
