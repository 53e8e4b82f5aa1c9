"""A store against a model: any order of calls, damage, interruptions and collection."""

from __future__ import annotations

import shutil
import tempfile
import threading
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import castore
from castore import points
from castore.blobs import layout
from castore.canonical import seal

ROWS = np.arange(4200)
SUFFIXES = st.sampled_from(["a", "b", "c"])
VALUES = st.integers(1, 3)


class Interrupted(BaseException):
    """Stands for the end of the process in the middle of a commit."""


def result(value):
    """Return the result that `value` stands for; equal values have equal blobs."""
    return np.repeat(ROWS[:, None] * value, 3, 1)


class StoreMachine(RuleBasedStateMachine):
    """Keeps, per suffix, the values a reader may now get; ``None`` among them: a miss."""

    @initialize(digest=st.sampled_from(["xxh3-128", "sha256"]))
    def make(self, digest):
        """Begin with an empty store."""
        self.root = Path(tempfile.mkdtemp())
        self.store = castore.init(self.root / "store", digest=digest)
        self.may_be = {}

    def teardown(self):
        """Remove the store."""
        points.observer = None
        shutil.rmtree(self.root)

    def allowed(self, suffix):
        """Return what a reader of `suffix` may get."""
        return self.may_be.get(suffix, {None})

    def check(self, suffix, found):
        """Check what was read, and narrow the model to it."""
        value = None if found is None else int(found[1, 0])
        assert value in self.allowed(suffix)
        if found is not None:
            assert np.array_equal(found, result(value))
        return value

    @rule(suffix=SUFFIXES)
    def read(self, suffix):
        """A read returns an allowed value, whole."""
        self.check(suffix, self.store.get(ROWS, suffix=suffix))

    @rule(suffix=SUFFIXES, value=VALUES)
    def compute(self, suffix, value):
        """A computation returns what is there, or its own value, which then is there."""
        ran = []

        def fn(_loader):
            ran.append(value)
            return result(value)

        found = self.store.get_or_compute(
            ROWS, fn, suffix, model=None, ignore=("fn.value", "fn.ran")
        )
        if ran:
            assert None in self.allowed(suffix)
            assert np.array_equal(found, result(value))
            self.may_be[suffix] = {value}
        else:
            self.may_be[suffix] = {self.check(suffix, found)}

    @rule(suffix=SUFFIXES, value=VALUES)
    def put(self, suffix, value):
        """What is put is there."""
        self.store.put(ROWS, result(value), suffix)
        self.may_be[suffix] = {value}

    @rule(suffix=SUFFIXES, value=VALUES, at=st.integers(1, 30))
    def put_interrupted(self, suffix, value, at):
        """A commit that ends anywhere leaves the old state or the new one."""
        count = 0

        def observe(_point):
            nonlocal count
            if threading.current_thread().name == "castore-renewal":
                return  # of a lease that another test left
            count += 1
            if count == at:
                raise Interrupted

        points.observer = observe
        try:
            self.store.put(ROWS, result(value), suffix)
            self.may_be[suffix] = {value}
        except Interrupted:
            self.may_be[suffix] = self.allowed(suffix) | {value}
        finally:
            points.observer = None

    @rule(suffix=SUFFIXES)
    def delete(self, suffix):
        """A deleted entry is a miss; one that listings pass over for its damage may stay."""
        for info in self.store.entries():
            if info.suffix == suffix:
                self.store.delete(info.key)
        damaged = self.allowed(suffix) if self.is_damaged(suffix) else set()
        self.may_be[suffix] = damaged | {None}

    def is_damaged(self, suffix):
        """Tell whether the entry may be there and unreadable, so that listings pass it over."""
        return len(self.allowed(suffix)) > 1

    @rule(data=st.data())
    def damage(self, data):
        """A flipped bit anywhere turns entries into misses, never into other values."""
        files = sorted(path for path in self.files() if path.stat().st_size)
        if files:
            file = data.draw(st.sampled_from(files))
            content = bytearray(file.read_bytes())
            content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(
                st.integers(0, 7)
            )
            file.unlink()
            file.write_bytes(content)
            for suffix, values in self.may_be.items():
                self.may_be[suffix] = values | {None}

    @rule(run=st.integers(0, 999))
    def collect(self, run):
        """A collector condemns what no manifest names, then removes it."""
        named = {ref.name for e in self.entries() for ref in e.manifest.blobs}
        blobs = [p for p in self.files() if "blobs" in p.parts]
        for path in blobs:
            name = path.relative_to(self.root / "store").as_posix()
            if name not in named and not any(map(self.is_damaged, self.may_be)):
                tombstone = self.root / "store" / layout.tombstones(path.name) / str(run)
                tombstone.parent.mkdir(parents=True, exist_ok=True)
                tombstone.write_bytes(seal({"condemned": [path.name], "format": 1}))
                path.unlink()

    @rule()
    def reopen(self):
        """Another process knows what this one knew."""
        self.store = castore.open(self.store.url)

    def files(self):
        """Return every file but the temporary ones and the tombstones."""
        skipped = {"tmp", "tombstones"}
        return [
            p for p in (self.root / "store").rglob("*") if p.is_file() and not skipped & {*p.parts}
        ]

    def entries(self):
        """Return the entries that can be read."""
        return [self.store.entry(info.key) for info in self.store.entries()]

    @invariant()
    def acknowledged_blobs_are_not_condemned(self):
        """What a reader may rely on has names no collector forbids, nor removed."""
        if not hasattr(self, "store"):
            return
        for entry in self.entries():
            if not self.is_damaged(entry.manifest.derivation["table"]["suffix"]):
                for ref in entry.manifest.blobs:
                    assert (self.root / "store" / ref.name).stat().st_size == ref.length


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
