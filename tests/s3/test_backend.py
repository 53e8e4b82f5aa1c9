"""A bucket as a backend: what every backend owes, one request a call, and answers that got lost."""

from __future__ import annotations

import multiprocessing
import pickle
import threading
import uuid

import numpy as np
import pytest

from castore.backend.remote import RemoteBackend
from castore.errors import BackendError
from castore.testing.objects import ObjectTests
from castore.testing.suite import NAME
from castore.testing.uploads import UploadTests

pytest.importorskip("s3fs")


class TestBucket(ObjectTests, UploadTests):
    """A bucket of each server."""

    @pytest.fixture
    def fresh(self, bucket, storage_options):
        """Give new folders of one bucket."""
        return lambda: RemoteBackend(f"s3://{bucket}/{uuid.uuid4().hex}", storage_options)


@pytest.fixture
def backend(bucket, storage_options):
    """Return the top of an empty bucket."""
    return RemoteBackend(f"s3://{bucket}", storage_options)


@pytest.fixture
def before(ministack, proxied):
    """Return a proxy before a server, and a fresh backend behind it."""
    with_faults = proxied(ministack)
    client = ministack.client()
    name = f"castore-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=name)
    client.close()
    return with_faults, RemoteBackend(f"s3://{name}/store", with_faults.storage_options)


def test_large_objects_come_in_ranges(backend):
    """An object above 16 MiB is read in parallel pieces, and comes back as it was."""
    data = np.random.default_rng(0).integers(0, 256, 20_000_001, np.uint8)
    backend.put(NAME, [data])
    assert np.array_equal(backend.open_private(NAME, len(data)), data)
    assert backend.open_private(NAME, len(data) + 1) is None
    assert backend.open_private("none", len(data)) is None


def test_listings_have_pages(backend):
    """More than 1,000 objects are listed whole, in order."""
    names = sorted(f"many/{number}" for number in range(1100))
    threads = [
        threading.Thread(
            target=lambda some: [backend.put(n, [b""]) for n in some], args=(names[i::8],)
        )
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [info.name for info in backend.list("many/")] == names
    assert backend.delete(names) == len(names)
    assert list(backend.list("")) == []


def test_a_pickled_backend_opens_the_same_place(backend):
    """A copy has no connection of the original's, and sees its objects."""
    backend.put(NAME, [b"value"])
    assert pickle.loads(pickle.dumps(backend)).get(NAME) == b"value"


def _child(backend, connection):
    connection.send(backend.get(NAME))
    backend.put("of the child", [b"new"])


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_other_processes_use_it(backend, method):
    """A child of any kind reads and writes through a backend that its parent has used."""
    backend.put(NAME, [b"value"])
    context = multiprocessing.get_context(method)
    here, there = context.Pipe()
    process = context.Process(target=_child, args=(backend, there))
    process.start()
    assert here.poll(60)
    assert here.recv() == b"value"
    process.join(60)
    assert process.exitcode == 0
    assert backend.get("of the child") == b"new"


def _race(backend, name, number, connection):
    connection.recv()
    connection.send(backend.create(name, [b"%d" % number]))


def test_create_has_one_winner_among_processes(backend):
    """Of six processes that create one name exactly one is told that it did, and did."""
    context = multiprocessing.get_context("forkserver")
    pipes, processes = [], []
    for number in range(6):
        here, there = context.Pipe()
        processes.append(context.Process(target=_race, args=(backend, NAME, number, there)))
        pipes.append(here)
        processes[-1].start()
    for pipe in pipes:
        pipe.send("go")
    won = [number for number, pipe in enumerate(pipes) if pipe.poll(60) and pipe.recv()]
    for process in processes:
        process.join(60)
    assert len(won) == 1
    assert backend.get(NAME) == b"%d" % won[0]


@pytest.mark.parametrize("fault", ["lost_reply", "reset", "refuse", "status"])
def test_a_create_whose_answer_is_lost_is_known_for_ones_own(before, fault):
    """Whether the server acted before the answer was lost or not, the create is done once."""
    server, backend = before
    server.add(fault, "PUT", times=1)
    assert backend.create(NAME, [b"mine"]) is True
    assert server.hits(fault) == 1
    assert backend.get(NAME) == b"mine"
    assert backend.create(NAME, [b"another's"]) is False


def test_a_create_of_others_whose_answer_is_lost_is_not_ones_own(before):
    """Where another's object is there, a lost answer makes it nobody else's."""
    server, backend = before
    backend.put(NAME, [b"another's"])
    server.add("lost_reply", "PUT", times=1)
    assert backend.create(NAME, [b"mine"]) is False
    assert backend.get(NAME) == b"another's"


@pytest.mark.parametrize("fault", ["lost_reply", "reset", "cut_reply", "status"])
@pytest.mark.parametrize("size", [100, 20_000_000])
def test_reads_and_writes_survive_a_fault(before, fault, size):
    """One fault on the way costs another request, and no byte."""
    server, backend = before
    data = np.random.default_rng(1).integers(0, 256, size, np.uint8)
    if fault != "cut_reply":
        server.add(fault, "PUT", times=1)
    backend.put(NAME, [data])
    server.add(fault, "GET", times=1, **({"keep": 50} if fault == "cut_reply" else {}))
    assert np.array_equal(backend.open_private(NAME, size), data)
    assert server.hits(fault) >= 1


def test_calls_are_single_requests(before):
    """Get, stat, put, create, delete and a short listing are one request each."""
    server, backend = before
    calls = {
        "create": lambda: backend.create(NAME, [b"x"]),
        "get": lambda: backend.get(NAME),
        "missing": lambda: backend.get("none"),
        "open": lambda: backend.open_private(NAME, 1),
        "stat": lambda: backend.stat(NAME),
        "put": lambda: backend.put(NAME, [b"y" * 100_000]),
        "list": lambda: list(backend.list("tables/")),
        "now": backend.now,
        "delete": lambda: backend.delete([NAME, "none"]),
    }
    backend.get("none")  # a connection, and whatever the first call finds out
    found = {}
    for name, call in calls.items():
        server.clear()
        call()
        found[name] = len(server.requests())
    assert found == dict.fromkeys(calls, 1)


def test_a_bucket_that_is_not_there_is_named(ministack):
    """Reading, writing and listing name the bucket and say what to do."""
    backend = RemoteBackend("s3://castore-none/store", ministack.storage_options)
    calls = [
        lambda: backend.get(NAME),
        lambda: backend.put(NAME, [b"x"]),
        lambda: backend.create(NAME, [b"x"]),
        lambda: list(backend.list("")),
        lambda: backend.delete([NAME]),
    ]
    for call in calls:
        with pytest.raises(BackendError, match="no bucket 'castore-none': make it"):
            call()


def test_a_server_that_is_not_there_is_an_error_of_castore(free_port):
    """Where nothing answers, every call says so by an error of the store's, without secrets."""
    options = {
        "key": "somebody", "secret": "PASSWORD",
        "client_kwargs": {"endpoint_url": f"http://127.0.0.1:{free_port}"},
        "config_kwargs": {"retries": {"total_max_attempts": 1}},
    }  # fmt: skip
    backend = RemoteBackend("s3://bucket/store", options)
    for call in (lambda: backend.get(NAME), lambda: backend.create(NAME, [b"x"])):
        with pytest.raises(BackendError) as raised:
            call()
        assert "PASSWORD" not in str(raised.value)
        assert "s3://bucket/store" in str(raised.value)


@pytest.fixture
def free_port():
    """Return a port on which nobody listens."""
    import socket

    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]
