"""What every backend owes: objects by name.

A suite for pytest: subclass, give the fixture `fresh`, and every test runs over your backend.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from castore.backend.base import Backend
from castore.testing.suite import NAME, BackendSuite, listed, opened, stat

__all__ = ["ObjectTests"]

segments = st.text("abc019.-~_", min_size=1, max_size=4).filter(lambda text: text.strip("."))
names = st.lists(segments, min_size=1, max_size=3).map("/".join)
pieces = st.lists(st.binary(max_size=40), max_size=4)


def prefix_free(found: set[str]) -> set[str]:
    """Keep the names of `found` below which no other one lies: a name is no folder."""
    return {name for name in found if not any(other.startswith(f"{name}/") for other in found)} - {
        "tmp"
    }


class ObjectTests(BackendSuite):
    """Objects that are put, created, read, listed and deleted."""

    def test_what_is_put_is_got(self, backend: Backend) -> None:
        """The pieces of an object come back as one."""
        backend.put(NAME, [b"one", memoryview(b"two"), np.arange(3, dtype=np.uint8)])
        assert backend.get(NAME) == b"onetwo\x00\x01\x02"

    def test_arrays_of_any_type_are_pieces(self, backend: Backend) -> None:
        """A piece counts by its bytes, whatever its item size or shape."""
        array = np.arange(6, dtype="<f4").reshape(2, 3)
        backend.put("whole", [array, np.empty(0, "<f8")])
        backend.create("new", [array])
        assert backend.get("whole") == backend.get("new") == array.tobytes()

    def test_no_pieces_are_an_empty_object(self, backend: Backend) -> None:
        """An object without a byte exists all the same."""
        backend.put("put", [])
        assert backend.create("created", [])
        assert (backend.get("put"), backend.get("created")) == (b"", b"")
        assert stat(backend, "put").size == 0
        assert opened(backend, "put", 0).shape == (0,)

    def test_put_replaces(self, backend: Backend) -> None:
        """A second put is what a reader sees from then on, longer or shorter."""
        for data in (b"first", b"a second, longer", b"3"):
            backend.put(NAME, [data])
            assert backend.get(NAME) == data
            assert stat(backend, NAME).size == len(data)

    @pytest.mark.parametrize("missing", ["none", "none/below", "ab/cd", "ab", "ab/cd.json/below"])
    def test_what_is_missing_is_none(self, backend: Backend, missing: str) -> None:
        """A name that nothing, a folder, or a name above has, is None everywhere and no error."""
        backend.put("ab/cd.json", [b"x" * 4096])
        assert backend.get(missing) is None
        assert backend.stat(missing) is None
        for copy in (False, True):
            assert backend.open_private(missing, 4096, copy=copy) is None
        assert backend.delete([missing]) == (0 if backend.near else 1)
        assert backend.get("ab/cd.json") == b"x" * 4096

    def test_a_store_without_an_object_lists_nothing(self, backend: Backend) -> None:
        """Listing finds nothing where nothing was written, not even the folder."""
        assert listed(backend) == listed(backend, "tables/") == []

    def test_stat_tells_name_size_and_time(self, backend: Backend) -> None:
        """Size is in bytes and time in seconds since the epoch, in listings as in `stat`."""
        before = time.time()
        backend.put(NAME, [b"12345"])
        info = stat(backend, NAME)
        assert (info.name, info.size) == (NAME, 5)
        assert before - 2 < info.modified < time.time() + 2  # a file system's clock ticks coarsely
        (found,) = backend.list("tables/")
        assert (found.name, found.size, found.tag) == (NAME, 5, info.tag)
        assert abs(found.modified - info.modified) < (1e-9 if backend.near else 1)

    def test_a_replacement_is_not_older(self, backend: Backend) -> None:
        """The time of an object never goes back when it is replaced."""
        times: list[float] = []
        for number in range(5):
            backend.put(NAME, [b"%d" % number])
            times.append(stat(backend, NAME).modified)
        assert times == sorted(times)

    def test_create_makes_what_is_not_there(self, backend: Backend) -> None:
        """The first create wins, and says so; a later one changes nothing, and says so."""
        assert backend.create(NAME, [b"fir", b"st"]) is True
        assert backend.create(NAME, [b"second"]) is False
        assert backend.get(NAME) == b"first"

    def test_create_yields_to_put_and_returns_after_delete(self, backend: Backend) -> None:
        """An object that was put refuses a create; one that was deleted does not."""
        backend.put(NAME, [b"put"])
        assert not backend.create(NAME, [b"created"])
        backend.delete([NAME])
        assert backend.create(NAME, [b"created"])
        assert backend.get(NAME) == b"created"

    @pytest.mark.usefixtures("restless")
    def test_create_has_one_winner_among_threads(self, backend: Backend) -> None:
        """Of 16 threads that create one name at once exactly one is told that it did, and did."""
        for turn in range(24 if backend.near else 4):
            start = threading.Barrier(16)
            won: list[int] = []

            def create(
                number: int,
                name: str = f"race/{turn}",
                start: threading.Barrier = start,
                won: list[int] = won,
            ) -> None:
                start.wait()
                if backend.create(name, [b"%d" % number]):
                    won.append(number)

            threads = [threading.Thread(target=create, args=(n,)) for n in range(16)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(won) == 1
            assert backend.get(f"race/{turn}") == b"%d" % won[0]

    def test_put_is_atomic_to_threads(self, backend: Backend) -> None:
        """Whoever reads while another thread replaces sees one of the two values, whole."""
        values = {bytes([n]) * size for n, size in ((1, 200_000), (2, 70_000))}
        backend.put("value", [min(values)])
        done = threading.Event()
        seen: set[bytes | None] = set()
        lengths: set[int] = set()

        def read() -> None:
            while not done.is_set():
                seen.add(backend.get("value"))
                lengths.add(stat(backend, "value").size)

        reader = threading.Thread(target=read)
        reader.start()
        for value in itertools.islice(itertools.cycle(sorted(values)), 60):
            backend.put("value", [value[:1000], value[1000:]])
        done.set()
        reader.join()
        assert seen <= values
        assert lengths <= {len(value) for value in values}

    @pytest.mark.parametrize("copy", [False, True])
    def test_opened_arrays_are_private(self, backend: Backend, copy: bool) -> None:
        """Who opens an object may write to the array: neither the object nor another sees it."""
        backend.put(NAME, [bytes(range(256)) * 40])
        one, two = (opened(backend, NAME, 10240, copy=copy) for _ in range(2))
        assert one.dtype == np.uint8
        assert one.flags.writeable
        one[:] = 7
        assert two.tobytes() == backend.get(NAME) == bytes(range(256)) * 40

    @pytest.mark.parametrize("copy", [False, True])
    @pytest.mark.parametrize("length", [0, 4, 6, 4096, 2**60])
    def test_an_object_of_another_length_is_not_opened(
        self, backend: Backend, copy: bool, length: int
    ) -> None:
        """An object that is not exactly as long as promised is not opened, however long that is."""
        backend.put(NAME, [b"12345"])
        assert backend.open_private(NAME, length, copy=copy) is None
        assert opened(backend, NAME, 5, copy=copy).tobytes() == b"12345"

    @pytest.mark.parametrize("copy", [False, True])
    def test_opened_arrays_outlive_the_object(self, backend: Backend, copy: bool) -> None:
        """An opened array keeps its bytes when its object is replaced, and when it is deleted."""
        old = bytes(range(256)) * 400
        backend.put(NAME, [old])
        kept = opened(backend, NAME, len(old), copy=copy)
        backend.put(NAME, [b"new"])
        assert kept.tobytes() == old
        again = opened(backend, NAME, 3, copy=copy)
        assert backend.delete([NAME]) == 1
        assert (kept.tobytes(), again.tobytes()) == (old, b"new")

    def test_delete_counts_what_was_there(self, backend: Backend) -> None:
        """Delete takes any iterable, removes what is there, and counts that where it can tell."""
        for name in ("a/1", "a/2", "b"):
            backend.put(name, [b""])
        there = backend.delete(iter(["a/1", "none", "b", "a/none", "none/none"]))
        assert there == (2 if backend.near else 5)
        assert listed(backend) == ["a/2"]
        assert backend.delete([]) == 0

    @settings(
        max_examples=20,
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,
            HealthCheck.differing_executors,
        ],
    )
    @given(found=st.dictionaries(names, pieces, max_size=12))
    def test_listing_is_whole_and_sorted(
        self, fresh: Callable[[], Backend], found: dict[str, list[bytes]]
    ) -> None:
        """Whatever names there are, a listing has each once, by name; every value comes back."""
        backend = fresh()
        kept = sorted(prefix_free(set(found)))
        for name in kept:
            backend.put(name, found[name])
        assert listed(backend) == kept
        assert {name: backend.get(name) for name in kept} == {
            name: b"".join(found[name]) for name in kept
        }
