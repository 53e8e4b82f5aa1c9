"""What every backend owes: one suite, run over each of them."""

from __future__ import annotations

import itertools
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from castore.backend.local import LocalBackend
from castore.backend.memory import MemoryBackend

KINDS = {
    "local": lambda folder: LocalBackend(folder / "store"),
    "memory": lambda _: MemoryBackend(uuid.uuid4().hex),
}
every_kind = pytest.mark.parametrize("kind", KINDS)

NAME = "tables/ab/entries/cd.json"
segments = st.text("abc019.-~_", min_size=1, max_size=4).filter(lambda text: text.strip("."))
names = st.lists(segments, min_size=1, max_size=3).map("/".join)
pieces = st.lists(st.binary(max_size=40), max_size=4)


@pytest.fixture(params=KINDS)
def backend(request, tmp_path):
    """Yield an empty backend of each kind."""
    return KINDS[request.param](tmp_path)


def prefix_free(found):
    """Keep the names of `found` below which no other one lies: a name is no folder."""
    return {name for name in found if not any(other.startswith(f"{name}/") for other in found)} - {
        "tmp"
    }


def listed(backend, prefix=""):
    """Names of all objects under `prefix`."""
    return [info.name for info in backend.list(prefix)]


def test_what_is_put_is_got(backend):
    """The pieces of an object come back as one."""
    backend.put(NAME, [b"one", memoryview(b"two"), np.arange(3, dtype=np.uint8)])
    assert backend.get(NAME) == b"onetwo\x00\x01\x02"


def test_arrays_of_any_type_are_pieces(backend):
    """A piece counts by its bytes, whatever its item size or shape."""
    array = np.arange(6, dtype="<f4").reshape(2, 3)
    backend.put("whole", [array, np.empty(0, "<f8")])
    backend.create("new", [array])
    assert backend.get("whole") == backend.get("new") == array.tobytes()


def test_no_pieces_are_an_empty_object(backend):
    """An object without a byte exists all the same."""
    backend.put("put", [])
    assert backend.create("created", [])
    assert (backend.get("put"), backend.get("created")) == (b"", b"")
    assert backend.stat("put").size == 0
    assert backend.open_private("put", 0).shape == (0,)


def test_put_replaces(backend):
    """A second put is what a reader sees from then on, longer or shorter."""
    for data in (b"first", b"a second, longer", b"3"):
        backend.put(NAME, [data])
        assert backend.get(NAME) == data
        assert backend.stat(NAME).size == len(data)


@pytest.mark.parametrize("missing", ["none", "none/below", "ab/cd", "ab", "ab/cd.json/below"])
def test_what_is_missing_is_none(backend, missing):
    """A name that nothing, a folder, or a name above has, is None everywhere and no error."""
    backend.put("ab/cd.json", [b"x" * 4096])
    assert backend.get(missing) is None
    assert backend.stat(missing) is None
    for copy in (False, True):
        assert backend.open_private(missing, 4096, copy=copy) is None
    assert backend.delete([missing]) == 0
    assert backend.get("ab/cd.json") == b"x" * 4096


def test_a_store_without_an_object_lists_nothing(backend):
    """Listing finds nothing where nothing was written, not even the folder."""
    assert listed(backend) == listed(backend, "tables/") == []


def test_stat_tells_name_size_and_time(backend):
    """Size is in bytes and time in seconds since the epoch, in listings as in `stat`."""
    before = time.time()
    backend.put(NAME, [b"12345"])
    info = backend.stat(NAME)
    assert (info.name, info.size) == (NAME, 5)
    assert before - 2 < info.modified < time.time() + 2  # a file system's clock ticks coarsely
    assert list(backend.list("tables/")) == [info]


def test_a_replacement_is_not_older(backend):
    """The time of an object never goes back when it is replaced."""
    times = []
    for number in range(5):
        backend.put(NAME, [b"%d" % number])
        times.append(backend.stat(NAME).modified)
    assert times == sorted(times)


def test_create_makes_what_is_not_there(backend):
    """The first create wins, and says so; a later one changes nothing, and says so."""
    assert backend.create(NAME, [b"fir", b"st"]) is True
    assert backend.create(NAME, [b"second"]) is False
    assert backend.get(NAME) == b"first"


def test_create_yields_to_put_and_returns_after_delete(backend):
    """An object that was put refuses a create; one that was deleted does not."""
    backend.put(NAME, [b"put"])
    assert not backend.create(NAME, [b"created"])
    backend.delete([NAME])
    assert backend.create(NAME, [b"created"])
    assert backend.get(NAME) == b"created"


@pytest.fixture
def restless():
    """Have threads take turns as often as Python can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_create_has_one_winner_among_threads(backend, restless):
    """Of 16 threads that create one name at once exactly one is told that it did, and did."""
    for turn in range(24):
        start = threading.Barrier(16)
        won = []

        def create(number, name=f"race/{turn}", start=start, won=won):
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


def test_put_is_atomic_to_threads(backend):
    """Whoever reads while another thread replaces sees one of the two values, whole."""
    values = {bytes([n]) * size for n, size in ((1, 200_000), (2, 70_000))}
    backend.put("value", [min(values)])
    done = threading.Event()
    seen, lengths = set(), set()

    def read():
        while not done.is_set():
            seen.add(backend.get("value"))
            lengths.add(backend.stat("value").size)

    reader = threading.Thread(target=read)
    reader.start()
    for value in itertools.islice(itertools.cycle(sorted(values)), 60):
        backend.put("value", [value[:1000], value[1000:]])
    done.set()
    reader.join()
    assert seen <= values
    assert lengths <= {len(value) for value in values}


@pytest.mark.parametrize("copy", [False, True])
def test_opened_arrays_are_private(backend, copy):
    """Who opens an object may write to the array: neither the object nor another sees it."""
    backend.put(NAME, [bytes(range(256)) * 40])
    one, two = (backend.open_private(NAME, 10240, copy=copy) for _ in range(2))
    assert one.dtype == np.uint8
    assert one.flags.writeable
    one[:] = 7
    assert two.tobytes() == backend.get(NAME) == bytes(range(256)) * 40


@pytest.mark.parametrize("copy", [False, True])
@pytest.mark.parametrize("length", [0, 4, 6, 4096, 2**60])
def test_an_object_of_another_length_is_not_opened(backend, copy, length):
    """An object that is not exactly as long as promised is not opened, however long that is."""
    backend.put(NAME, [b"12345"])
    assert backend.open_private(NAME, length, copy=copy) is None
    assert backend.open_private(NAME, 5, copy=copy).tobytes() == b"12345"


@pytest.mark.parametrize("copy", [False, True])
def test_opened_arrays_outlive_the_object(backend, copy):
    """An opened array keeps its bytes when its object is replaced, and when it is deleted."""
    old = bytes(range(256)) * 400
    backend.put(NAME, [old])
    opened = backend.open_private(NAME, len(old), copy=copy)
    backend.put(NAME, [b"new"])
    assert opened.tobytes() == old
    again = backend.open_private(NAME, 3, copy=copy)
    assert backend.delete([NAME]) == 1
    assert (opened.tobytes(), again.tobytes()) == (old, b"new")


def test_delete_counts_what_was_there(backend):
    """Delete takes any iterable, removes what is there, and counts only that."""
    for name in ("a/1", "a/2", "b"):
        backend.put(name, [b""])
    assert backend.delete(iter(["a/1", "none", "b", "a/none", "none/none"])) == 2
    assert listed(backend) == ["a/2"]
    assert backend.delete([]) == 0


def test_list_takes_whole_folders(backend):
    """A prefix is a folder: names that only begin alike lie elsewhere."""
    for name in ("ab/1", "ab/c/2", "abc/3", "ab.json"):
        backend.put(name, [b""])
    assert listed(backend, "ab/") == ["ab/1", "ab/c/2"]
    assert listed(backend, "ab/c/") == ["ab/c/2"]
    assert listed(backend, "a/") == []
    assert listed(backend, "ab.json/") == []


@every_kind
@given(found=st.dictionaries(names, pieces, max_size=12))
def test_listing_is_whole_and_sorted(kind, found):
    """Whatever names there are, a listing has each once, by name, and every value comes back."""
    with tempfile.TemporaryDirectory() as folder:
        backend = KINDS[kind](Path(folder))
        kept = sorted(prefix_free(set(found)))
        for name in kept:
            backend.put(name, found[name])
        assert listed(backend) == kept
        assert {name: backend.get(name) for name in kept} == {
            name: b"".join(found[name]) for name in kept
        }


def test_uploads_get_their_name_at_the_end(backend):
    """An upload is an object from `finish` on, and not before."""
    with backend.upload() as upload:
        upload.write(b"one")
        upload.write(np.arange(3, dtype="<i2"))
        assert listed(backend) == []
        upload.finish(NAME)
        assert backend.get(NAME) == b"one\x00\x00\x01\x00\x02\x00"
    assert listed(backend) == [NAME]


def test_uploads_replace(backend):
    """A finished upload takes the place of what has its name, as a put does."""
    backend.put(NAME, [b"a longer old value"])
    with backend.upload() as upload:
        upload.write(b"new")
        upload.finish(NAME)
    assert backend.get(NAME) == b"new"


def test_uploads_can_yield(backend):
    """An upload finished as new has its name only where nobody had it, and can still replace."""
    with backend.upload() as upload:
        upload.write(b"first")
        upload.sync()
        assert upload.finish_new(NAME) is True
    with backend.upload() as upload:
        upload.write(b"second")
        assert upload.finish_new(NAME) is False
        assert backend.get(NAME) == b"first"
        upload.finish(NAME)
    assert backend.get(NAME) == b"second"


def test_unfinished_uploads_leave_no_trace(backend):
    """An upload whose block ends without `finish` leaves nothing that a listing shows."""
    with backend.upload() as upload:
        upload.write(b"lost")
    assert listed(backend) == []


def test_failed_uploads_leave_no_trace(backend):
    """An upload whose block raises is gone, and the error comes out as it was."""

    def fail():
        with backend.upload() as upload:
            upload.write(b"lost")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert listed(backend) == []


def test_uploads_show_their_contents(backend):
    """What was written can be read back as a private array before and after it has a name."""
    with backend.upload() as upload:
        assert upload.contents(0).shape == (0,)
        upload.write(b"0123456789" * 1000)
        before = upload.contents(9990)
        before[:] = 0
        upload.finish(NAME)
        after = upload.contents(10_000)
        assert after.flags.writeable
        after[:5] = 0
    assert backend.get(NAME) == b"0123456789" * 1000
    assert after.tobytes() == bytes(5) + b"56789" + b"0123456789" * 999


def test_two_uploads_do_not_meet(backend):
    """Uploads under way at once keep apart."""
    with backend.upload() as one, backend.upload() as two:
        one.write(b"1")
        two.write(b"2")
        one.write(b"1")
        one.finish("one")
        two.finish("two")
    assert (backend.get("one"), backend.get("two")) == (b"11", b"2")


def test_advice_is_an_object_like_any_other(backend):
    """What need not outlive a power cut is written, refused, replaced, listed and deleted alike."""
    assert backend.create("advice/1", [b"on", b"e"], durable=False) is True
    assert backend.create("advice/1", [b"two"], durable=False) is False
    assert backend.get("advice/1") == b"one"
    backend.put("advice/1", [b"three"], durable=False)
    backend.put("advice/2", [b""], durable=False)
    assert backend.get("advice/1") == b"three"
    assert listed(backend) == ["advice/1", "advice/2"]
    assert backend.delete(["advice/1", "advice/none", "advice/2"], durable=False) == 2
    assert listed(backend) == []
    assert backend.create("advice/1", [b"again"])
    assert backend.get("advice/1") == b"again"


def test_the_clock_is_the_one_that_dates_objects(backend):
    """What is written before, at and after asking for the time is dated in that order."""
    backend.put("before", [b""])
    now = backend.now()
    backend.put("after", [b""])
    assert backend.stat("before").modified <= now <= backend.stat("after").modified
    assert listed(backend) == ["after", "before"]


def test_advice_comes_and_goes_in_many_threads(backend, restless):
    """Threads that make and remove the only names of one folder never get in each other's way."""
    start = threading.Barrier(8)
    errors = []

    def come_and_go(number):
        start.wait()
        try:
            for turn in range(40):
                assert backend.create(f"advice/{number}", [b"x"], durable=False)
                if turn % 2:
                    backend.put(f"advice/{number}", [b"y"], durable=False)
                assert backend.delete([f"advice/{number}"], durable=False) == 1
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=come_and_go, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert listed(backend) == []


def test_settling_what_is_there_changes_nothing(backend):
    """An object may be settled by whoever sees it, any number of times."""
    backend.put(NAME, [b"value"])
    for _ in range(2):
        backend.settle(NAME)
    assert backend.get(NAME) == b"value"


def test_checking_leaves_no_trace(backend):
    """Seeing whether a store can be written puts no object there."""
    for _ in range(2):
        backend.check_writable()
    assert listed(backend) == []


@every_kind
def test_one_place_is_one_store(kind, tmp_path):
    """Two backends with one URL see each other's objects."""
    one = KINDS[kind](tmp_path)
    two = type(one)(Path(one.url) if kind == "local" else one.url.removeprefix("memory://"))
    one.put(NAME, [b"value"])
    assert two.url == one.url
    assert two.get(NAME) == b"value"
    assert one.near


def test_room_is_memory_of_ones_own(backend):
    """Room is as long as asked for, can be written, and is no object."""
    room = backend.room(1000)
    room[:] = 7
    assert (room.dtype, room.shape, room.sum()) == (np.uint8, (1000,), 7000)
    assert listed(backend) == []


def test_what_is_taken_is_an_object(backend, tmp_path):
    """A file that is taken is the object, durable, and keeps its own name; else nothing is done."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * 300_000)
    for _ in range(2):  # again, as it may be after trouble
        taken = backend.take(path, NAME)
        assert taken is isinstance(backend, LocalBackend)
        assert backend.get(NAME) == (b"x" * 300_000 if taken else None)
        assert listed(backend) == ([NAME] if taken else [])
        assert path.read_bytes() == b"x" * 300_000


def test_what_is_taken_replaces(backend, tmp_path):
    """A file that is taken under a name that there is stands in the place of what was there."""
    path = tmp_path / "file"
    path.write_bytes(b"new")
    backend.put(NAME, [b"old"])
    taken = backend.take(path, NAME)
    assert backend.get(NAME) == (b"new" if taken else b"old")


def test_a_taken_file_may_be_replaced(backend, tmp_path):
    """Another file in its place, or none, leaves the object as it was."""
    path = tmp_path / "file"
    path.write_bytes(b"first")
    if not backend.take(path, NAME):
        backend.put(NAME, [b"first"])
    (tmp_path / "other").write_bytes(b"second")
    (tmp_path / "other").rename(path)
    assert backend.get(NAME) == b"first"
    path.unlink()
    assert backend.get(NAME) == b"first"


def test_a_workplace_is_a_new_place_of_ones_own(backend, tmp_path, monkeypatch):
    """Each call gives another path, at which nothing is, and which is no object once it is made."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    places = [backend.workplace() for _ in range(3)]
    assert len(set(places)) == 3
    for place in places:
        assert not place.exists()
        place.mkdir(parents=True)
        (place / "file").write_bytes(b"data")
        assert listed(backend) == []
        assert backend.take(place / "file", NAME) is isinstance(backend, LocalBackend)
        backend.delete([NAME])
