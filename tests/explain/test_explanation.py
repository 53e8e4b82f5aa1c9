"""Explanations of calls: what is told, of each kind."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import castore
from castore.errors import BackendError
from castore.explain import Difference, compare_entries, explain, short_reason

torch = pytest.importorskip("torch")

from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset  # noqa: E402

DATA = TensorDataset(torch.arange(100.0).reshape(50, 2))
LINEAR = torch.nn.Linear(2, 3).eval()


def extract(loader, scale=1):
    """Extract."""
    return torch.cat([LINEAR(x) * scale for (x,) in loader])


def pair(samples):
    """Collate as the user wants."""
    return [torch.stack([x for (x,) in samples])]


def over(dataset=DATA, batch_size=8, **options):
    """Return a loader."""
    return DataLoader(dataset, batch_size=batch_size, **options)


class Scaled(Dataset):
    """A dataset with a transform."""

    def __init__(self, transform):
        self.transform = transform

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return self.transform(torch.full((2,), float(index)))

    def __castore_row_ids__(self, indices):
        return list(indices)


class Times:
    """A transform."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, x):
        """Scale."""
        return x * self.factor


def told(explained):
    """Differences of an explanation, as text."""
    return [str(difference) for difference in explained.differences]


@pytest.fixture
def key(shelf):
    """Key of what is stored."""
    return shelf.put(over(), extract, "x", model="auto")


def ask(shelf, loader=None, fn=extract, suffix="x", *, model="auto", **what):
    """Explain a call."""
    return shelf.why(loader or over(), fn, suffix, model=model, **what)


def test_a_hit_names_its_entry(shelf, key):
    """A hit has the entry that answers, no difference and no advice."""
    found = ask(shelf)
    assert (found.kind, found.key, found.nearest.key) == ("hit", key, key)
    assert (found.rows, found.known, found.missing) == (50, 50, 0)
    assert (found.differences, found.recorded, found.advice) == ([], [], [])
    assert str(found).splitlines()[0] == found.short == "hit: extract over 50 rows is stored"
    assert f"entry       {key[:8]}: 50 rows, computed in " in str(found)


def test_a_hit_tells_what_was_ignored(shelf, key):
    """A hit of an entry with another batch size shows that, without advice."""
    request = shelf.request(over(batch_size=4), extract, "x", model="auto", ignore=("batch_size",))
    found = explain(shelf.backend, request, entry=shelf.entry(key))
    assert (found.kind, told(found), found.advice) == ("hit", ["batch_size 8 → 4"], [])
    assert "ignored     batch_size 8 → 4" in str(found)


def test_a_hit_tells_that_code_changed(shelf, key):
    """Other code under a suffix is shown as recorded."""

    def extract(loader, scale=1):
        return [LINEAR, scale]

    found = ask(shelf, fn=extract)
    assert found.kind == "hit"
    assert [difference.path for difference in found.recorded] == ["functions.fn"]
    assert "recorded    functions.fn code " in str(found)


def test_a_partial_hit_tells_where_rows_come_from(shelf, key):
    """How many rows are known, how many are missing, and which entries have them, is told."""
    grown = over(ConcatDataset([DATA, TensorDataset(torch.zeros(2, 2))]))
    facts = {"known": 50, "sources": [(key, 30), ("0" * 32, 20)]}
    found = ask(shelf, grown, facts=facts)
    assert (found.kind, found.rows, found.known, found.missing) == ("partial", 52, 50, 2)
    assert found.sources == facts["sources"]
    lines = str(found).splitlines()
    assert lines[0] == found.short
    assert found.short == "partial hit: extract over 52 rows: 50 stored in 2 entries, 2 missing"
    assert lines[1:3] == [f"rows from   {key[:8]}: 30 rows", "            00000000: 20 rows"]


def test_many_entries_are_counted(shelf, key):
    """Of a hundred entries that rows come from eight are listed."""
    sources = [(f"{number:032x}", 1) for number in range(100)]
    found = ask(shelf, over(Subset(DATA, [0, 1])), facts={"known": 1, "sources": sources})
    assert "            and 92 more" in str(found).splitlines()
    assert str(found).count(": 1 row\n") == 8


def test_all_rows_from_other_entries_are_a_hit(shelf, key):
    """Where every row is known nothing is computed, so that is a hit."""
    found = ask(shelf, over(Subset(DATA, [3, 2])), facts={"known": 2, "sources": [(key, 2)]})
    assert (found.kind, found.known, found.missing, found.nearest) == ("hit", 2, 0, None)
    assert f"rows from   {key[:8]}: 2 rows" in str(found)


MISSES = {
    "batch size": ({"loader": over(batch_size=4)}, ["batch_size 8 → 4"]),
    "collate": ({"loader": over(collate_fn=pair)}, ["collate torch's own → code "]),
    "params": ({"params": {"layer": "fc"}}, ["params.layer absent → 'fc'"]),
    "value": ({"fn": functools.partial(extract, scale=2)}, ["fn.scale 1 → 2"]),
    "version": ({"version": 2}, ["version None → 2"]),
    "suffix": ({"suffix": "y"}, ["suffix x → y"]),
    "model": ({"model": "0" * 32}, ["model "]),
    "grown": (
        {"loader": over(ConcatDataset([DATA, TensorDataset(torch.zeros(1, 2))]))},
        ["rows: 50 of the 51 rows are among its 50"],
    ),
    "replaced": (
        {"loader": over(TensorDataset(torch.cat([DATA.tensors[0][:49], torch.zeros(1, 2)])))},
        ["rows: 49 of the 50 rows are the same"],
    ),
    "order": (
        {"loader": over(Subset(DATA, range(49, -1, -1)))},
        ["rows: the same rows in another order"],
    ),
    "dataset": ({"loader": over(), "dataset_id": "d@1"},
                ["source torch.utils.data.TensorDataset → d@1"]),
}  # fmt: skip


@pytest.mark.parametrize(("asked", "expected"), MISSES.values(), ids=MISSES)
def test_a_miss_names_what_differs(shelf, key, asked, expected):
    """A miss has the nearest entry, and exactly the part in which it differs."""
    found = ask(shelf, **asked)
    assert (found.kind, found.known, found.nearest.key) == ("miss", 0, key)
    assert len(found.differences) == 1
    assert told(found)[0].startswith(expected[0])
    assert found.short.startswith(f"absent; nearest {key[:8]} differs in {expected[0]}")
    text = str(found).splitlines()
    assert text[0] == f"miss: extract over {found.rows} rows is not stored"
    assert text[2] == f"differs in  {told(found)[0]}"


def test_weights_and_training_are_another_model(shelf):
    """Other weights, and train for eval, are the model that differs; that is said."""
    model = torch.nn.Linear(2, 3).eval()

    def embed(loader):
        return model(loader)

    shelf.put(over(), embed, "x", model="auto")
    model.train()
    (one,) = ask(shelf, fn=embed).differences
    model.eval()
    with torch.no_grad():
        model.weight += 1
    (two,) = ask(shelf, fn=embed).differences
    assert one.path == two.path == "model"
    assert one.after != two.after
    assert str(one).endswith("(other weights, structure or mode)")


def test_another_transform_is_named_by_its_attribute(shelf):
    """A transform's parameter is found in the source, and rows are not named beside it."""
    shelf.put(over(Scaled(Times(2))), extract, "x")
    found = shelf.why(over(Scaled(Times(3))), extract, "x")
    assert told(found) == ["source.transform.factor 2 → 3"]


def test_another_function_of_collate_is_named_within(shelf):
    """Of two custom collate functions the value that differs is named."""
    one, two = (functools.partial(lambda samples, n: samples, n=n) for n in (1, 2))
    shelf.put(over(collate_fn=one), extract, "x")
    assert told(shelf.why(over(collate_fn=two), extract, "x")) == ["collate.collate_fn.n 1 → 2"]


def test_other_code_without_a_suffix_is_named(shelf):
    """A function without a suffix whose code changed is told from its former self."""
    shelf.put(over(), lambda loader: loader)
    found = shelf.why(over(), lambda loader: (loader, 1))
    assert [difference.path for difference in found.differences] == ["functions.fn"]


def test_nothing_alike(shelf, key):
    """Where nothing has to do with the call, that is said."""
    found = shelf.why(np.zeros((3, 2)), len, "z")
    assert (found.kind, found.nearest, found.differences) == ("miss", None, [])
    assert found.short == shelf.short(np.zeros((3, 2)), len, "z")
    assert found.short == "absent; nothing like it was found"
    assert str(found).splitlines()[1] == "nearest     nothing like it was found"


def test_the_reason_is_told(shelf, key):
    """Why rows are not reused stands at the end, where there are rows of the same function."""
    facts = {"reason": "rowwise=False"}
    found = ask(shelf, over(Subset(DATA, [0])), facts=facts)
    assert str(found).splitlines()[-1] == "not reused  rowwise=False"
    for asked in ({"loader": over(batch_size=4)}, {"version": 2}):
        found = ask(shelf, **asked, facts=facts)
        assert found.reason == "rowwise=False"
        assert "rowwise" not in str(found)
    facts = {"known": 1, "sources": [(key, 1)], "reason": "a probe will tell"}
    found = ask(shelf, over(Subset(DATA, [0, 1])), facts=facts)
    assert str(found).splitlines()[-1] == "reuse       a probe will tell"


def test_a_damaged_entry_is_its_own_neighbour(shelf, key):
    """Where the entry itself may not answer, it is the nearest, and nothing keyed differs."""
    request = shelf.request(over(), extract, "x", model="auto")
    found = explain(shelf.backend, request, reason="the probe failed")
    assert (found.kind, found.nearest.key) == ("miss", key)
    assert found.short == "the probe failed"


def test_the_line_says_what_the_search_finds(shelf, key):
    """The line of the log is the short form of the explanation."""
    for asked, _ in MISSES.values():
        explained = ask(shelf, **asked)
        what = {"fn": extract, "suffix": "x", "model": "auto", "loader": over(), **asked}
        assert shelf.short(what.pop("loader"), **what) == explained.short


def test_the_line_reads_nothing_from_afar_and_never_fails(shelf, key):
    """Where each document is a request, and where the store cannot be read, it says less."""

    class Far:
        near = False

    class Broken:
        near = True

        def list(self, prefix):
            raise BackendError(prefix)

    request = shelf.request(over(batch_size=4), extract, "x", model="auto")
    assert short_reason(Far(), request) == short_reason(Broken(), request) == "absent"


def test_an_explanation_says_what_a_store_asks_of_inputs(shelf):
    """A result that belongs to no loader is explained by its inputs."""
    from castore.identity.function import describe_function
    from castore.identity.request import identify_inputs

    shelf.store.compute(lambda n: n, suffix="s", inputs={"n": 1})
    request = identify_inputs(describe_function(None, "s"), {"n": 2})
    found = explain(shelf.backend, request)
    assert (found.rows, found.missing, told(found)) == (None, None, ["inputs.n 1 → 2"])
    assert str(found).startswith("miss: s is not stored\n")


def test_two_entries_are_compared(shelf, key):
    """Two entries stand side by side, with what would have made the first answer."""
    other = shelf.put(over(batch_size=4), extract, "x", model="auto")
    found = compare_entries(shelf.entry(other), shelf.entry(key))
    assert (found.before.key, found.after.key) == (key, other)
    assert found.differences == [Difference("batch_size", 8, 4)]
    assert "ignore=('batch_size',) would have hit" in found.advice[0]
    assert compare_entries(shelf.entry(other)) == found


def test_an_entry_alone_has_nothing_near(shelf, key):
    """The only entry of a store is like no other."""
    found = compare_entries(shelf.entry(key))
    assert (found.before, found.after.key, found.differences) == (None, key, [])


def test_what_is_there_and_does_not_answer_is_told(tmp_path):
    """An entry that is damaged, or of other code where that matters, is a miss that says why."""
    rows = np.arange(40000.0).reshape(10000, 4)
    store = castore.open(tmp_path)
    store.get_or_compute(rows, lambda x: x * 2, "a", model=None)
    strict = castore.open(tmp_path, on_code_change="miss")
    found = strict.explain(rows, lambda x: x * 3, "a", model=None)
    assert (found.kind, found.reason) == (
        "miss",
        "the entry of these rows was computed by other code",
    )
    blob = max(tmp_path.glob("blobs/*/*"), key=lambda path: path.stat().st_size)
    data = bytearray(blob.read_bytes())
    data[100] ^= 1
    blob.unlink()
    blob.write_bytes(data)
    found = castore.open(tmp_path).explain(rows, lambda x: x * 2, "a", model=None)
    assert found.kind == "miss"
    assert found.short == "the entry of these rows is damaged"
    assert "not reused  the entry of these rows is damaged" in str(found)
