"""A store in a bucket: shared by whoever names it, and never a wrong byte."""

from __future__ import annotations

import multiprocessing
import pickle

import numpy as np
import pytest

import castore
from castore.errors import BackendError

pytest.importorskip("s3fs")

ROWS = np.arange(40_000, dtype="f4").reshape(200, 200)


def double(rows):
    """Compute what is stored."""
    return rows * 2


@pytest.fixture
def store(bucket, storage_options):
    """Return a store in a fresh bucket."""
    return castore.open(f"s3://{bucket}/cache", storage_options=storage_options)


def ask(store, rows=ROWS, **how):
    """Ask for the doubled rows."""
    return store.get_or_compute(rows, double, "double", model=None, **how)


def test_what_one_computes_others_find(store):
    """A second store of the same URL hits, bit for bit, and may write to what it gets."""
    other = pickle.loads(pickle.dumps(store))
    assert np.array_equal(ask(store), ROWS * 2)
    found = ask(other)
    assert (other.stats().hits, other.stats().computations) == (1, 0)
    assert found.tobytes() == (ROWS * 2).tobytes()
    found[:] = 0
    assert ask(other).tobytes() == (ROWS * 2).tobytes()


def test_rows_are_reused(store):
    """Of a grown and permuted request only missing rows are computed."""
    ask(store, ROWS[:150], rowwise=True)
    assert np.array_equal(ask(store, ROWS[::-1].copy(), rowwise=True), ROWS[::-1] * 2)
    assert (store.stats().rows_computed, store.stats().rows_reused) == (200, 150)


def _ask(store, connection):
    connection.send((ask(store).tobytes() == (ROWS * 2).tobytes(), store.stats().hits))


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_find_it(store, method):
    """A store that was used is used by children of every kind."""
    ask(store)
    context = multiprocessing.get_context(method)
    here, there = context.Pipe()
    process = context.Process(target=_ask, args=(store, there))
    process.start()
    assert here.poll(60)
    right, hits = here.recv()
    process.join(60)
    assert right
    assert hits >= 1


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_flipped_bit_is_no_wrong_value(store, bucket, client, place):
    """Whatever object has a flipped bit, the value is right, and the next reader hits again."""
    ask(store)
    listed = client.list_objects_v2(Bucket=bucket, Prefix="cache/")["Contents"]
    objects = sorted(one["Key"] for one in listed if one["Size"] > 500)
    key = objects[place % len(objects)]
    data = bytearray(client.get_object(Bucket=bucket, Key=key)["Body"].read())
    data[len(data) // 2] ^= 16
    client.put_object(Bucket=bucket, Key=key, Body=bytes(data))
    assert ask(pickle.loads(pickle.dumps(store))).tobytes() == (ROWS * 2).tobytes()
    after = pickle.loads(pickle.dumps(store))
    assert ask(after).tobytes() == (ROWS * 2).tobytes()
    assert after.stats().hits == 1


def test_hierarchies_are_committed_and_read(store):
    """A Zarr hierarchy is published into a bucket and read from it."""
    import zarr

    stage = store.zarr_store()
    array = zarr.create_array(stage, shape=(4, 50_000), chunks=(1, 50_000), dtype="f8")
    array[:3] = np.arange(150_000.0).reshape(3, 50_000)
    key = stage.commit("s", inputs={"a": 1}).key
    found = store.entry(key).zarr()
    assert np.array_equal(found[:3], np.arange(150_000.0).reshape(3, 50_000))
    assert (found[3] == 0).all()


def test_requests_are_counted(ministack, proxied):
    """A cold exact hit is two requests, or one below 64 KiB; a miss and its commit eight."""
    server = proxied(ministack)
    client = ministack.client()
    client.create_bucket(Bucket="counted")
    client.close()
    options = server.storage_options

    def count(rows):
        store = castore.open("s3://counted/cache", storage_options=options)
        server.clear()
        ask(store, rows, rowwise=False)
        return len(server.requests())

    count(ROWS + 1)  # the table's and the process's first
    assert count(ROWS) == 8
    assert count(ROWS) == 2
    small = ROWS[:10]
    count(small)
    assert count(small) == 1


def test_a_dead_server_stops_nobody(ministack, proxied):
    """With on_error="compute" a server that resets every connection costs a warning, no result."""
    server = proxied(ministack)
    server.add("refuse")
    store = castore.open(
        "s3://any/cache",
        storage_options={
            **server.storage_options,
            "config_kwargs": {"retries": {"total_max_attempts": 1}},
        },
        on_error="compute",
    )
    with pytest.warns(castore.errors.CastoreWarning, match="s3://any/cache"):
        assert np.array_equal(ask(store), ROWS * 2)
    strict = castore.open(store.url, storage_options=store._storage_options)
    with pytest.raises(BackendError):
        ask(strict)


def test_secrets_are_not_shown(store):
    """Neither the store nor its backend shows how it is reached."""
    shown = repr(store) + str(store) + repr(store._backend)
    assert store._storage_options["secret"] not in shown
