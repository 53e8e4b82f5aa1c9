"""Rows found again in any request: the function's own values, and no row computed twice."""

from __future__ import annotations

import collections
import pickle
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

import castore
from castore import arrays
from castore.computing.probe import MOST
from castore.computing.rowwise import TOLERANCE

try:
    import torch
    from torch.utils import data
except ImportError:
    torch = None

Pair = collections.namedtuple("Pair", "first second")  # noqa: PYI024  the user's may have no types

#: A sample is a number and a version: another version is another row under the same number.
SAMPLES = st.tuples(st.integers(0, 11), st.integers(0, 1))
FRESH = st.lists(SAMPLES, min_size=1, max_size=12)


@st.composite
def sequences(draw, fresh=FRESH, most=4):
    """Return lists of samples, one a request; most are made of those before."""
    listed = [draw(fresh)]
    for _ in range(draw(st.integers(1, most - 1))):
        before = draw(st.sampled_from(listed))
        listed.append(draw(st.one_of(edits(before, listed), fresh)))
    return listed


def edits(before, listed):
    """Return what becomes of a list of samples: another order, fewer, more, replaced, repeated."""
    return st.one_of(
        st.permutations(before),
        st.permutations(before).flatmap(lambda p: st.integers(1, len(p)).map(lambda n: p[:n])),
        FRESH.map(lambda more: before + more),
        FRESH.map(lambda more: more + before),
        st.sampled_from(listed).map(lambda other: other + before),
        st.integers(0, 11).map(lambda i: [(n, 1 - v) if n == i else (n, v) for n, v in before]),
        st.just(before + before[:3]),
        st.just(before[:-1] or before),
    )


def rows_of(samples):
    """Return the rows of samples, int64 (n, 4): number, version and what is in them."""
    table = np.array(samples, np.int64).reshape(-1, 2)
    return np.concatenate([table, table[:, :1] * 7 + table[:, 1:] * 13 + [[0, 5]]], axis=1)


FORMS = {
    "array": lambda x: x * 3 - 1,
    "flat": lambda x: x[:, 2],
    "bytes": lambda x: {"b": (x % 251).astype(np.uint8), "odd": x[:, :3] % 2 == 1},
    "tuple": lambda x: (x[:, 2:] / 4, x.astype(np.int32)),
    "named": lambda x: Pair((x + 1j).astype(np.complex64), {"deep": [x.astype(np.float16)]}),
    "wide": lambda x: np.broadcast_to(x[:, :, None], (*x.shape, 3)).copy(),
    "nothing": lambda x: x[:, :0],
}


class Seen(list):
    """What a function was given; no part of what it computes."""

    castore_infrastructure = True


class Work:
    """A function of an array, row by row, that tells which rows it was given."""

    def __init__(self, form, *, streams=False):
        self.form = FORMS[form]
        self.streams = streams
        self.shift = 0
        self.seen = Seen()

    def __call__(self, rows):
        """Return the rows in a form, or yield them in pieces."""
        pieces = [rows[start : start + 5] for start in range(0, len(rows), 5)]
        return self._stream(pieces) if self.streams else self.of(np.concatenate(pieces))

    def of(self, rows):
        """Return what rows come to, and remember them."""
        self.seen.extend(map(tuple, (rows[:, :2] - self.shift).tolist()))
        return self.form(rows)

    def _stream(self, pieces):
        for piece in pieces:
            yield self.of(piece)


class Known:
    """What a store must know: the rows of each scope."""

    def __init__(self):
        self.rows = collections.defaultdict(set)

    def missing(self, scopes, samples):
        """Return the rows that must be computed, each once, in order."""
        known = set().union(*(self.rows[scope] for scope in scopes))
        return [row for row in dict.fromkeys(samples) if row not in known]

    def learn(self, scope, samples):
        """Take note of rows that were stored."""
        self.rows[scope].update(samples)


@pytest.fixture(scope="module")
def places():
    """Return what gives stores at one empty place, as several owners would hold them."""
    store = castore.open("memory://rows")
    written, read = (pickle.dumps(castore.open(store.url, mode=mode)) for mode in ("rw", "ro"))

    def places():
        store._backend.delete([info.name for info in store._backend.list("")])
        return [pickle.loads(held) for held in (written, written, read)]

    return places


def leaves(value):
    """Yield the arrays of a result, each behind what it lies in."""
    if isinstance(value, (tuple, list)):
        yield type(value).__name__, len(value)
        for item in value:
            yield from leaves(item)
    elif isinstance(value, dict):
        yield from value
        for item in value.values():
            yield from leaves(item)
    else:
        value = arrays.as_array(value)
        yield str(value.dtype), value.shape, value.tobytes()


def same(found, expected):
    """Tell whether two results are the same to the last bit."""
    return list(leaves(found)) == list(leaves(expected))


@settings(max_examples=1500)
@given(
    requests=sequences(),
    form=st.sampled_from(sorted(FORMS)),
    streams=st.booleans(),
    choices=st.data(),
)
def test_arrays_are_put_together_from_known_rows(places, requests, form, streams, choices):
    """Any request is the direct result bit for bit, and computes the rows nobody stored."""
    stores, known, work = places(), Known(), Work(form, streams=streams)
    for samples in requests:
        store = choices.draw(st.sampled_from(stores))
        materialize = choices.draw(st.booleans())
        work.seen.clear()
        found = store.get_or_compute(
            rows_of(samples), work, form, model=None, rowwise=True, materialize=materialize
        )
        assert work.seen == known.missing([""], samples)
        assert same(found, FORMS[form](rows_of(samples)))
        if store.mode == "rw":
            known.learn("", samples)


@settings(max_examples=300)
@given(requests=sequences(), streams=st.booleans())
def test_what_is_put_counts_as_computed(places, requests, streams):
    """Rows that were put are gathered like any other, and a look-up gives all rows or none."""
    store, known, work = places()[0], Known(), Work("tuple", streams=streams)
    first, *others = requests
    store.put(rows_of(first), work(rows_of(first)), "t", fn=work, model=None, rowwise=True)
    known.learn("", first)
    for samples in others:
        found = store.get(rows_of(samples), work, "t", model=None, rowwise=True)
        if known.missing([""], samples):
            assert found is None
        else:
            assert same(found, FORMS["tuple"](rows_of(samples)))


@pytest.fixture(scope="module")
def needs_torch():
    """Skip what needs torch where it is not."""
    return pytest.importorskip("torch")


def shifted(samples):
    """Collate, and change what comes of it."""
    return [torch.stack([row for (row,) in samples]) + 100]


TENSORS = {
    "ints": lambda x: x.to(torch.int32),
    "half": lambda x: {"x": x.to(torch.bfloat16), "odd": x % 2 == 1},
    "tuple": lambda x: (x[:, 2:] / 4, [x[:, 0]]),
    "wide": lambda x: x[:, :, None].expand(-1, -1, 3),
}


class Reads(Work):
    """A function of a loader, row by row, that tells which rows it was given."""

    def __init__(self, form, *, streams=False):
        super().__init__("array", streams=streams)
        self.form = TENSORS[form]

    def __call__(self, loader):
        """Return the rows in a form, or yield them batch by batch."""
        batches = (rows.reshape(-1, 4) for (rows, *_) in loader)
        return self._stream(batches) if self.streams else self.of(torch.cat([*batches]))


class Batches:
    """A batch sampler that says which batches it gives."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        """Give them."""
        return iter(self.batches)

    def __len__(self):
        """Return how many there are."""
        return len(self.batches)

    def __castore_indices__(self):
        """Return them."""
        return self.batches


def index_of(sample):
    """Return where a sample is in the dataset of all of them."""
    return sample[0] * 2 + sample[1]


def every():
    """Return the dataset of all samples."""
    return tensors([(number, version) for number in range(12) for version in (0, 1)])


def tensors(samples):
    """Return a dataset of just these samples."""
    return data.TensorDataset(torch.from_numpy(rows_of(samples)))


@st.composite
def loaders(draw, samples, **options):
    """Return a loader over `samples`, the samples it has, and the name of its batch size."""
    size = draw(st.sampled_from([1, 2, 3, 5, 32]))
    options["collate_fn"] = draw(st.sampled_from([None, shifted]))
    if draw(st.booleans()) and len(samples) >= size:
        options["drop_last"] = True
        samples = samples[: len(samples) // size * size]
    how = draw(
        st.sampled_from(["own", "shuffle", "sampler", "subset", "concat", "batches", "none"])
    )
    indices = [index_of(sample) for sample in samples]
    if how == "batches":
        options.pop("drop_last", None)
        cuts = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
        ends = [end for end in np.cumsum(cuts) if end < len(indices)]
        parts = [part.tolist() for part in np.split(np.array(indices), ends)]
        made = data.DataLoader(every(), batch_sampler=Batches(parts), **options)
        return made, samples, str(parts)
    if how == "none":
        options.pop("drop_last", None)
        options["collate_fn"] = None
        return data.DataLoader(tensors(samples), batch_size=None, **options), samples, None
    dataset = {
        "sampler": every,
        "subset": lambda: data.Subset(every(), indices),
        "concat": lambda: data.ConcatDataset([tensors(samples[:3]), tensors(samples[3:] or [])]),
    }.get(how, lambda: tensors(samples))()
    options["sampler"] = indices if how == "sampler" else None
    options["shuffle"] = how == "shuffle" or None
    return data.DataLoader(dataset, batch_size=size, **options), samples, size


def ask(store, work, loader, samples, form, **options):
    """Ask for a request and check what comes; return whether its collate shifts."""
    collate = loader.collate_fn is shifted
    work.shift = 100 if collate else 0
    work.seen.clear()
    found = store.get_or_compute(
        loader, work, form, model=None, rowwise=True, ignore=("fn.shift",), **options
    )
    rows = torch.from_numpy(rows_of(samples)) + work.shift
    assert same(found, TENSORS[form](rows))
    return collate


@settings(max_examples=350)
@given(
    requests=sequences(),
    form=st.sampled_from(sorted(TENSORS)),
    streams=st.booleans(),
    choices=st.data(),
)
def test_loaders_are_put_together_from_known_rows(
    needs_torch, places, *, requests, form, streams, choices
):
    """However rows are loaded, they are found again by what they are; a collate has its own.

    Where the batch size is compared, only what was computed in batches of that size counts.
    """
    stores, known, work = places(), Known(), Reads(form, streams=streams)
    computed, gathered = set(), set()  # what is stored under its own key
    for wanted in requests:
        store = choices.draw(st.sampled_from(stores))
        loader, samples, size = choices.draw(loaders(wanted))
        compare = choices.draw(st.booleans()) and not isinstance(size, str)
        materialize = choices.draw(st.booleans())
        collate = ask(
            store, work, loader, samples, form,
            compare=("batch_size",) if compare else (),
            materialize=materialize,
            returns=choices.draw(st.sampled_from(["numpy", "torch"])),
        )  # fmt: skip
        scopes = [s for s in [*known.rows] if s[0] == collate and (not compare or s[1] == size)]
        missing = known.missing(scopes, samples)
        key = collate, size, tuple(samples)
        if key in (gathered if compare else ()) and key not in computed:
            missing = samples
        assert work.seen == missing
        if store.mode == "rw":
            known.learn((collate, size), missing)
            computed.add((collate, size, tuple(missing)))
            if materialize:
                gathered.add(key)


@settings(max_examples=8)
@given(requests=sequences(most=3), choices=st.data())
def test_workers_load_just_the_missing_rows(needs_torch, places, requests, choices):
    """Rows that worker processes load are the same rows, and as many."""
    stores, known, work = places(), Known(), Reads("ints")
    for wanted in requests:
        loader, samples, size = choices.draw(loaders(wanted, num_workers=1))
        collate = ask(stores[0], work, loader, samples, "ints")
        scopes = [scope for scope in [*known.rows] if scope[0] == collate]
        assert work.seen == known.missing(scopes, samples)
        known.learn((collate, size), samples)


def read(path):
    """Return what is in a file of one row."""
    return torch.frombuffer(bytearray(Path(path).read_bytes()), dtype=torch.int64)


@settings(max_examples=40)
@given(requests=sequences(), choices=st.data())
def test_files_are_put_together_from_known_rows(needs_torch, places, requests, choices):
    """Files that came, went, moved with their folder or were replaced: the new ones are read."""
    folders = pytest.importorskip("torchvision.datasets")
    stores, known, work = places(), Known(), Reads("half")
    for number, wanted in enumerate(requests):
        files = dict(wanted)  # a name has one content at a time
        samples = [(name, files[name]) for name, _ in wanted]
        with tempfile.TemporaryDirectory() as root:
            place = Path(root, f"at{number}", "class")
            place.mkdir(parents=True)
            for name, version in files.items():
                (place / f"{name:02}.bin").write_bytes(rows_of([(name, version)]).tobytes())
            dataset = folders.DatasetFolder(place.parent, read, extensions=(".bin",))
            at = {name: index for index, name in enumerate(sorted(files))}
            chosen = data.Subset(dataset, [at[name] for name, _ in samples])
            loader = data.DataLoader(chosen, choices.draw(st.integers(1, 4)))
            ask(stores[number % 2], work, loader, samples, "half")
            assert work.seen == known.missing([""], samples)
            known.learn("", samples)


def network(dtype):
    """Return a small convolutional network whose result has more features than requests rows."""
    torch.manual_seed(0)
    layers = torch.nn.Conv2d(2, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Flatten()
    made = torch.nn.Sequential(*layers)
    made[1].running_mean.fill_(0.1)
    return made.eval().to(dtype)


def images(samples):
    """Return an image for each sample, and which sample it is."""
    drawn = torch.Generator().manual_seed(1)
    every = torch.randn(24, 2, 6, 6, generator=drawn)
    return data.TensorDataset(every[[index_of(s) for s in samples]], torch.tensor(samples))


class Features:
    """Features of a network, which tells of which samples."""

    def __init__(self, model, dtype):
        self.model = model
        self.dtype = dtype
        self.seen = Seen()

    def __call__(self, loader):
        """Return one row of features a sample."""
        with torch.no_grad():
            return torch.cat([self.of(*batch) for batch in loader])

    def of(self, pixels, samples):
        """Return the features of a batch."""
        self.seen.extend(map(tuple, samples.tolist()))
        return self.model(pixels.to(self.dtype))


def near(found, expected):
    """Tell whether features differ by no more than reused rows may."""
    tolerance = TOLERANCE[str(expected.dtype).removeprefix("torch.")]
    found, expected = found.double(), expected.double()
    allowed = tolerance * (expected.abs() + expected.abs().mean())
    return bool(((found - expected).abs() <= allowed).all())


def spans(most=40):
    """Return lists of samples long enough for a probe."""
    everything = st.permutations([(n, v) for n in range(12) for v in (0, 1)])
    return everything.flatmap(lambda p: st.integers(1, most).map(lambda n: (p + p)[:n]))


@settings(max_examples=150)
@given(
    requests=sequences(spans(), most=5),
    dtype=st.sampled_from(["float32", "float32", "float64", "bfloat16"]),
    choices=st.data(),
)
def test_a_network_is_probed_once_and_computes_missing_rows(
    needs_torch, places, requests, dtype, choices
):
    """Features are near the direct ones; what is computed is what is missing, and one probe."""
    stores, known, judged = places()[:2], Known(), False
    work = Features(network(getattr(torch, dtype)), getattr(torch, dtype))
    for samples in requests:
        store = choices.draw(st.sampled_from(stores))
        loader = data.DataLoader(images(samples), choices.draw(st.integers(1, 6)))
        direct = Features(work.model, work.dtype)(loader)
        before = store.stats()
        work.seen.clear()
        found = store.get_or_compute(loader, work, dtype, returns="torch")
        assert found.dtype == direct.dtype
        assert near(found, direct)
        after = store.stats()
        probed = after.rows_probed - before.rows_probed
        assert probed <= (0 if judged else MOST + 4)
        judged = judged or probed > 0
        missing = known.missing([""], samples) if judged else samples
        hit = after.hits > before.hits and not probed
        assert work.seen[probed:] == ([] if hit else missing)
        known.learn("", samples)
