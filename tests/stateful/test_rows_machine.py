"""Calls on one row-wise store against a dictionary: every row right, none computed needlessly."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

import castore
from castore.table import index

try:
    import torch
    from torch.utils import data
except ImportError:
    torch = None

#: Of rows this wide, seven do not fit a manifest any more.
WIDTH = 1300
#: Some lists come again and again, so that what is stored is asked for whole and in part.
USUAL = st.sampled_from([[0], [1], [0, 1], [1, 0], [1, 2], [0, 1, 2, 3], [3, 2], [*range(8)]])
ROWS = USUAL | st.lists(st.integers(0, 7), min_size=1, max_size=8)
SUBSETS = USUAL | st.lists(st.integers(0, 7), min_size=1, max_size=8, unique=True)
FACTORS = st.integers(1, 4)
VERSIONS = st.sampled_from([1, 1, 1, 2])
EDITIONS = st.sampled_from([0, 0, 0, 1])


class Seen(list):
    """What a function was given; no part of what it computes."""

    castore_infrastructure = True


class Work:
    """A function of rows whose factor nobody is told of."""

    def __init__(self, factor):
        self.factor = factor
        self.seen = Seen()

    def __call__(self, loader):
        """Return the rows times the factor."""
        return self.of(loader)

    def of(self, rows):
        """Return rows times the factor, and remember them."""
        self.seen.extend(map(tuple, rows[:, :2].tolist()))
        return rows * self.factor


class Batched(Work):
    """The same of a loader."""

    def __call__(self, loader):
        """Return the rows times the factor."""
        return torch.cat([self.of(rows) for (rows,) in loader])


@dataclass
class Held:
    """What an entry holds.

    Attributes
    ----------
    since : int
        When it was published.
    factors : dict
        What each row was computed with.
    together : str
        ``"part"`` of what the function returned, or ``"mixed"`` of several such results.
    """

    since: int
    factors: dict[tuple[int, int], int]
    together: str = ""


class RowsMachine(RuleBasedStateMachine):
    """Keeps entries as dictionaries: per table, batch size and list of rows, what each row holds.

    After damage only bounds are known: what was ever computed of a row since it was forced.
    """

    sizes = st.none()

    @initialize(harsh=st.sampled_from([False, False, True]))
    def make(self, harsh):
        """Begin with an empty store and a state folder of its own; damage it, or never."""
        self.harsh = harsh
        self.patch = pytest.MonkeyPatch()
        self.root = None
        self.damaged = True
        self.clock = itertools.count()
        self.begin()

    @rule()
    @precondition(lambda self: self.damaged)
    def begin(self):
        """Leave a damaged store for a new one."""
        if self.root is not None:
            shutil.rmtree(self.root)
        self.root = Path(tempfile.mkdtemp())
        self.patch.setenv("XDG_STATE_HOME", str(self.root / "state"))
        self.store = castore.open(self.root / "store")
        self.entries = {}
        self.ever = {}
        self.damaged = False

    def teardown(self):
        """Remove the store."""
        self.patch.undo()
        shutil.rmtree(self.root)

    def loader(self, rows, size):
        """Return what gives rows of a table of all, int64 (n, WIDTH)."""
        assert size is None
        return self.table(rows)

    def work(self, factor):
        """Return a function."""
        return Work(factor)

    def table(self, rows):
        """Return the rows themselves."""
        edges = np.array(rows, np.int64).reshape(-1, 2)
        return np.concatenate([edges, np.broadcast_to(edges[:, :1] + 3, (len(rows), WIDTH))], 1)

    def newest(self, version, size):
        """Return the factor of each row in the newest entry; of one batch size or of any."""
        found = {}
        for (other, batch, _), held in sorted(self.entries.items(), key=lambda e: e[1].since):
            if other == version and (size == "any" or (size == batch and held.together != "mixed")):
                found.update(held.factors)
        return found

    def keep(self, version, size, factors, rows, together=""):
        """Take note of an entry."""
        self.entries[version, size, tuple(rows)] = Held(next(self.clock), factors, together)
        for row, factor in factors.items():
            self.ever.setdefault((version, row), set()).add(factor)
        self.pass_time()

    def pass_time(self):
        """Wait until the file system's clock, which has ticks, is beyond what was written."""
        probe = self.root / "clock"
        probe.touch()
        start = probe.stat().st_mtime_ns
        while probe.stat().st_mtime_ns == start:
            probe.touch()

    def check(self, found, rows, held):
        """Check what was served against what must be, or after damage may be."""
        table = self.table(rows)
        factors = found[:, 2] // table[:, 2]
        assert np.array_equal(found, table * factors[:, None])
        for row, factor in zip(rows, factors.tolist(), strict=True):
            assert factor in held[row]

    def bounds(self, version, rows, factor):
        """Return what rows may be after damage, when a function of a factor fills in."""
        return {row: self.ever.get((version, row), set()) | {factor} for row in rows}

    @rule(
        numbers=ROWS, edition=EDITIONS, factor=FACTORS, version=VERSIONS, draws=st.data(),
        materialize=st.booleans(), compare=st.booleans(), read_only=st.booleans(),
    )  # fmt: skip
    def compute(self, *, numbers, edition, factor, version, draws, materialize, compare, read_only):
        """A call returns what is held, computes the rest, and keeps what it computed."""
        rows = [(number, edition) for number in numbers]
        size = draws.draw(self.sizes)
        work = self.work(factor)
        store = castore.open(self.store.url, mode="ro") if read_only else self.store
        found = store.get_or_compute(
            self.loader(rows, size), work, "t", model=None, rowwise=True, version=version,
            ignore=("fn.factor",), materialize=materialize,
            compare=("batch_size",) if compare else (),
        )  # fmt: skip
        if self.damaged:
            self.check(found, rows, self.bounds(version, rows, factor))
            for row in rows:
                self.ever.setdefault((version, row), set()).add(factor)
            return
        exact = self.entries.get((version, size, tuple(rows)))
        known = exact.factors if exact else self.newest(version, size if compare else "any")
        missing = [row for row in dict.fromkeys(rows) if row not in known]
        if exact and exact.together and compare:  # the function never ran over just these rows
            known, missing = {}, rows
        assert work.seen == missing
        whole = {row: known.get(row, factor) for row in rows}
        self.check(found, rows, {row: {held} for row, held in whole.items()})
        if missing and not read_only:
            self.keep(version, size, dict.fromkeys(missing, factor), missing)
        if materialize and not exact and not read_only:
            self.keep(version, size, whole, rows, "" if missing == rows else "mixed")

    @rule(numbers=ROWS, factor=FACTORS, version=VERSIONS, draws=st.data(), refresh=st.booleans())
    def force(self, numbers, factor, version, draws, refresh):
        """After rows were computed by force nobody is served an older value of them."""
        rows = [(number, 0) for number in numbers]
        size = draws.draw(self.sizes)
        work = self.work(factor)
        store = castore.open(self.store.url, mode="refresh") if refresh else self.store
        found = store.get_or_compute(
            self.loader(rows, size), work, "t", model=None, rowwise=True, version=version,
            ignore=("fn.factor",), force=not refresh,
        )  # fmt: skip
        assert work.seen == rows
        self.check(found, rows, {row: {factor} for row in rows})
        for row in rows:
            self.ever[version, row] = set()
        self.retire(version, rows)
        self.keep(version, size, dict.fromkeys(rows, factor), rows)

    def retire(self, version, rows):
        """Take rows out of every entry, and what a newer entry has out of what is left of it."""
        newer = set(rows)
        ordered = sorted(self.entries.items(), key=lambda entry: -entry[1].since)
        for (other, batch, listed), held in ordered:
            if other != version:
                continue
            if not held.factors.keys().isdisjoint(rows):
                del self.entries[other, batch, listed]
                left = [row for row in listed if row not in newer]
                if left:
                    rest = {row: held.factors[row] for row in left}
                    self.keep(other, batch, rest, left, held.together or "part")
            newer.update(listed)

    @rule(numbers=SUBSETS, factor=FACTORS, version=VERSIONS, draws=st.data())
    def put(self, numbers, factor, version, draws):
        """What is put is there, newer than what other entries hold."""
        rows = [(number, 0) for number in numbers]
        size = draws.draw(self.sizes)
        self.store.put(
            self.loader(rows, size), self.table(rows) * factor, "t", fn=self.work(factor),
            model=None, rowwise=True, version=version, ignore=("fn.factor",),
        )  # fmt: skip
        self.keep(version, size, dict.fromkeys(rows, factor), rows)

    @rule(numbers=ROWS, edition=EDITIONS, version=VERSIONS, draws=st.data())
    def get(self, numbers, edition, version, draws):
        """A look-up gives all rows or none, and computes nothing."""
        rows = [(number, edition) for number in numbers]
        size = draws.draw(self.sizes)
        work = self.work(9)
        found = self.store.get(
            self.loader(rows, size), work, "t", model=None, rowwise=True, version=version,
            ignore=("fn.factor",),
        )  # fmt: skip
        assert not work.seen
        if self.damaged:
            if found is not None:
                self.check(found, rows, self.bounds(version, rows, -1))
            return
        exact = self.entries.get((version, size, tuple(rows)))
        known = exact.factors if exact else self.newest(version, "any")
        if set(rows) <= known.keys():
            self.check(found, rows, {row: {known[row]} for row in rows})
        else:
            assert found is None

    def key(self, number):
        """Return the key of an entry of the model, by number."""
        version, size, rows = sorted(self.entries, key=str)[number % len(self.entries)]
        info = self.store.info(
            self.loader(rows, size), self.work(9), "t", model=None, version=version,
            ignore=("fn.factor",),
        )  # fmt: skip
        return info.key, (version, size, rows)

    @precondition(lambda self: self.entries and not self.damaged)
    @rule(number=st.integers(0, 99))
    def delete(self, number):
        """The rows of a deleted entry are held by others, or by nobody."""
        key, name = self.key(number)
        self.store.delete(key)
        del self.entries[name]

    @precondition(lambda self: self.harsh and self.entries and not self.damaged)
    @rule(
        number=st.integers(0, 99),
        of=st.integers(0, 9),
        how=st.sampled_from(["flip", "cut", "remove", "empty"]),
        at=st.floats(0, 1, exclude_max=True),
    )
    def damage(self, number, of, how, at):
        """Whatever happens to a manifest or a blob, no wrong value is served."""
        key, _ = self.key(number)
        manifest = self.store.entry(key).manifest
        names = [manifest.name, *sorted({ref.name for ref in manifest.blobs})]
        file = self.root / "store" / names[of % len(names)]
        content = bytearray(file.read_bytes())
        content[int(at * len(content))] ^= 1 << of % 8
        cut = {"flip": content, "cut": content[: int(at * len(content))], "empty": b""}
        file.unlink()
        if how != "remove":
            file.write_bytes(cut[how])
        self.damaged = True

    @rule(at=st.floats(0, 1, exclude_max=True))
    def damage_index(self, at):
        """The row index is a hint: what becomes of its file changes nothing."""
        for file in sorted(index.folder().glob("*")) if index.folder().exists() else []:
            content = bytearray(file.read_bytes())
            content[int(at * len(content))] ^= 16
            file.unlink()
            file.write_bytes(content)
        self.reopen()

    @rule()
    def reopen(self):
        """Another process knows what this one knew."""
        self.store = castore.open(self.store.url)


TestArrays = RowsMachine.TestCase
TestArrays.settings = settings(max_examples=200, stateful_step_count=25, deadline=None)


class LoadersMachine(RowsMachine):
    """Rows come in batches; results of any batch size lend rows."""

    sizes = st.sampled_from([1, 3, 32])

    def loader(self, rows, size):
        """Return a loader over rows."""
        return data.DataLoader(data.TensorDataset(torch.from_numpy(self.table(rows))), size)

    def work(self, factor):
        """Return a function."""
        return Batched(factor)


TestLoaders = pytest.mark.skipif(torch is None, reason="needs torch")(LoadersMachine.TestCase)
TestLoaders.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
