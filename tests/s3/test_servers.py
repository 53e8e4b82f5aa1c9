"""What castore relies on in a server, and that the proxy does the harm it says."""

from __future__ import annotations

import datetime as dt
import email.utils
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

botocore_exceptions = pytest.importorskip("botocore.exceptions")
pytest.importorskip("boto3")
s3fs = pytest.importorskip("s3fs")

ClientError = botocore_exceptions.ClientError
RACERS = 8
#: What a client raises whose connection is reset, or not taken.
NO_ANSWER = (botocore_exceptions.HTTPClientError, botocore_exceptions.ConnectionError)


def put(client, bucket, key, body, **conditions):
    """HTTP status of a PUT that may be refused."""
    try:
        reply = client.put_object(Bucket=bucket, Key=key, Body=body, **conditions)
    except ClientError as error:
        reply = error.response
    return reply["ResponseMetadata"]["HTTPStatusCode"]


def read(client, bucket, key, **how):
    """Whole body of an object, or the range asked for."""
    return client.get_object(Bucket=bucket, Key=key, **how)["Body"].read()


def listed(client, bucket, **how):
    """Keys that one page of a listing shows."""
    page = client.list_objects_v2(Bucket=bucket, **how)
    return [each["Key"] for each in page.get("Contents", ())]


# ---- each server


def test_one_of_many_creates(client, bucket):
    """Of eight conditional PUTs at once one wins, the object is his; the others get 412 or 409."""
    for turn in range(10):
        barrier = threading.Barrier(RACERS)

        def race(racer, key=f"race/{turn}", barrier=barrier):
            barrier.wait()
            return put(client, bucket, key, b"%d" % racer, IfNoneMatch="*")

        with ThreadPoolExecutor(RACERS) as pool:
            statuses = list(pool.map(race, range(RACERS)))
        assert statuses.count(200) == 1, statuses
        assert set(statuses) <= {200, 409, 412}, statuses
        assert read(client, bucket, f"race/{turn}") == b"%d" % statuses.index(200)


def test_replaces_only_what_was_read(client, bucket):
    """A PUT with `If-Match` replaces the version named, and is refused with 412 when it is gone."""
    first = client.put_object(Bucket=bucket, Key="a", Body=b"1")["ETag"]
    assert put(client, bucket, "a", b"2", IfMatch=first) == 200
    assert put(client, bucket, "a", b"3", IfMatch=first) == 412
    assert read(client, bucket, "a") == b"2"


def test_one_of_many_completes(client, bucket):
    """An upload in parts is refused at its end when the object has come meanwhile."""
    parts = {}
    upload = client.create_multipart_upload(Bucket=bucket, Key="a")["UploadId"]
    for number, body in ((1, b"x" * (5 << 20)), (2, b"y")):
        parts[number] = client.upload_part(
            Bucket=bucket, Key="a", UploadId=upload, PartNumber=number, Body=body
        )["ETag"]
    client.put_object(Bucket=bucket, Key="a", Body=b"first")
    with pytest.raises(ClientError) as refused:
        client.complete_multipart_upload(
            Bucket=bucket,
            Key="a",
            UploadId=upload,
            IfNoneMatch="*",
            MultipartUpload={
                "Parts": [{"PartNumber": number, "ETag": etag} for number, etag in parts.items()]
            },
        )
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 412
    assert read(client, bucket, "a") == b"first"


def test_listing_shows_what_was_written(client, bucket):
    """A listing shows each object as soon as it is written, in order of bytes, and none deleted."""
    written = []
    for key in ("b/2", "a", "b/10", "a/b", "é", "Z"):
        client.put_object(Bucket=bucket, Key=key, Body=b"x")
        written.append(key)
        assert listed(client, bucket) == sorted(written, key=str.encode)
    assert listed(client, bucket, Prefix="b/") == ["b/10", "b/2"]
    for key in list(written):
        client.delete_object(Bucket=bucket, Key=key)
        written.remove(key)
        assert listed(client, bucket) == sorted(written, key=str.encode)


def test_listing_has_pages(client, bucket):
    """A listing goes on where its page ended."""
    for number in range(5):
        client.put_object(Bucket=bucket, Key=f"k{number}", Body=b"x")
    pages = client.get_paginator("list_objects_v2").paginate(
        Bucket=bucket, PaginationConfig={"PageSize": 2}
    )
    assert [[each["Key"] for each in page["Contents"]] for page in pages] == [
        ["k0", "k1"],
        ["k2", "k3"],
        ["k4"],
    ]


def test_ranges(client, bucket):
    """A range gives its bytes, also from the end and beyond it; one outside is refused with 416."""
    client.put_object(Bucket=bucket, Key="a", Body=bytes(range(100)))
    assert read(client, bucket, "a", Range="bytes=10-19") == bytes(range(10, 20))
    assert read(client, bucket, "a", Range="bytes=-5") == bytes(range(95, 100))
    assert read(client, bucket, "a", Range="bytes=90-200") == bytes(range(90, 100))
    with pytest.raises(ClientError) as refused:
        read(client, bucket, "a", Range="bytes=100-110")
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 416


def test_batch_delete(client, bucket):
    """One request deletes many objects, and minds none that is not there."""
    for number in range(20):
        client.put_object(Bucket=bucket, Key=f"k/{number}", Body=b"x")
    keys = [{"Key": f"k/{number}"} for number in range(5, 25)]
    reply = client.delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
    assert "Errors" not in reply
    assert sorted(listed(client, bucket)) == [f"k/{number}" for number in range(5)]


def test_tells_its_time(client, bucket):
    """Answers have a `Date`, to the second, that agrees with `Last-Modified`."""
    client.put_object(Bucket=bucket, Key="a", Body=b"x")
    head = client.head_object(Bucket=bucket, Key="a")
    date = email.utils.parsedate_to_datetime(head["ResponseMetadata"]["HTTPHeaders"]["date"])
    assert date.tzinfo is not None
    # one clock: written before it was asked, by no more than the second that both are cut to
    assert head["LastModified"] <= date + dt.timedelta(seconds=1)


def test_etag_follows_content(client, bucket):
    """Another content has another ETag, the same content the same; HEAD and listing agree."""
    etags = [
        client.put_object(Bucket=bucket, Key="a", Body=body)["ETag"] for body in (b"1", b"2", b"1")
    ]
    assert etags[0] != etags[1]
    assert etags[0] == etags[2]
    assert client.head_object(Bucket=bucket, Key="a")["ETag"] == etags[2]
    assert client.list_objects_v2(Bucket=bucket)["Contents"][0]["ETag"] == etags[2]


def test_s3fs_creates_once(bucket, storage_options):
    """With `storage_options` s3fs writes, reads, and is refused a second creation."""
    fs = s3fs.S3FileSystem(**storage_options, skip_instance_cache=True, use_listings_cache=False)
    path = f"{bucket}/d/a"
    fs.pipe_file(path, b"abc", mode="create")
    with pytest.raises(OSError):  # noqa: PT011 - EEXIST or EINVAL, as the server words it
        fs.pipe_file(path, b"xyz", mode="create")
    assert fs.cat_file(path) == b"abc"
    assert fs.cat_file(path, start=1, end=2) == b"b"
    assert fs.find(f"{bucket}/d") == [path]


# ---- the proxy, before one server


@pytest.fixture
def faulty(ministack, proxied):
    """Put a proxy before MiniStack."""
    return proxied(ministack)


@pytest.fixture
def through(faulty):
    """Return a client that goes through the proxy and tries once."""
    made = faulty.client()
    yield made
    made.close()


@pytest.fixture
def place(ministack):
    """Return a client of the server itself and a bucket with one object, `a`."""
    client = ministack.client()
    with sys.modules["castore_s3_servers"].fresh_bucket(ministack) as bucket:
        client.put_object(Bucket=bucket, Key="a", Body=b"old")
        yield client, bucket
    client.close()


BODY = bytes(range(200)) * 1000


def test_passes_on_what_no_rule_meets(faulty, through, place):
    """Without a fault all is as without the proxy, which knows what went through it."""
    client, bucket = place
    through.put_object(Bucket=bucket, Key="b", Body=BODY)
    assert read(through, bucket, "b") == read(client, bucket, "b") == BODY
    assert listed(through, bucket) == ["a", "b"]
    assert [each.method for each in faulty.requests(target=f"/{bucket}/b$")] == ["PUT", "GET"]
    assert faulty.hits() == 0


def test_status(faulty, through, place):
    """`status` is an error of the proxy's; the server sees nothing."""
    client, bucket = place
    faulty.add("status", "PUT", "/a$", times=1)
    with pytest.raises(ClientError) as refused:
        through.put_object(Bucket=bucket, Key="a", Body=BODY)
    assert refused.value.response["Error"]["Code"] == "SlowDown"
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
    assert read(client, bucket, "a") == b"old"
    assert put(through, bucket, "a", BODY) == 200
    assert faulty.hits("status") == 1


@pytest.mark.parametrize("fault", ["reset", "refuse"])
def test_reset_before_the_server_acts(faulty, through, place, fault):
    """The connection is reset, and the server sees nothing."""
    client, bucket = place
    faulty.add(fault, "PUT", "/a$", times=1)
    with pytest.raises(NO_ANSWER):
        through.put_object(Bucket=bucket, Key="a", Body=BODY)
    assert read(client, bucket, "a") == b"old"
    assert put(through, bucket, "a", BODY) == 200


def test_reset_after_the_server_acted(faulty, through, place):
    """`lost_reply` resets the connection when the server is done: its answer alone is lost."""
    client, bucket = place
    faulty.add("lost_reply", "PUT", "/a$", times=1)
    with pytest.raises(NO_ANSWER):
        through.put_object(Bucket=bucket, Key="a", Body=BODY)
    assert read(client, bucket, "a") == BODY


def test_cut_request(faulty, through, place):
    """`cut_request` ends the body of a PUT early for the server, which keeps what it had."""
    client, bucket = place
    faulty.add("cut_request", "PUT", "/a$", times=1, keep=70_000)
    with pytest.raises(NO_ANSWER):
        through.put_object(Bucket=bucket, Key="a", Body=BODY)
    assert read(client, bucket, "a") == b"old"


def test_cut_reply(faulty, through, place):
    """`cut_reply` ends the body of an answer after `keep` bytes, whatever its header promised."""
    client, bucket = place
    client.put_object(Bucket=bucket, Key="a", Body=BODY)
    faulty.add("cut_reply", "GET", "/a$", times=1, keep=70_000)
    body = through.get_object(Bucket=bucket, Key="a")["Body"]
    got = body.read(70_000)
    with pytest.raises(botocore_exceptions.ResponseStreamingError):
        body.read()
    assert got == BODY[:70_000]
    assert read(through, bucket, "a") == BODY


def test_flip_reply(faulty, through, place):
    """`flip_reply` has one bit wrong on the way back, which a range carries no checksum for."""
    client, bucket = place
    client.put_object(Bucket=bucket, Key="a", Body=BODY)
    faulty.add("flip_reply", "GET", "/a$", times=1, keep=5)
    got = read(through, bucket, "a", Range="bytes=0-99")
    assert got == BODY[:5] + bytes([BODY[5] ^ 1]) + BODY[6:100]
    assert read(through, bucket, "a", Range="bytes=0-99") == BODY[:100]


def test_flip_request(faulty, through, place):
    """`flip_request` has one bit wrong on the way to the server, whose checksum tells it."""
    client, bucket = place
    faulty.add("flip_request", "PUT", "/a$", times=1, keep=100)
    with pytest.raises(ClientError) as refused:
        through.put_object(Bucket=bucket, Key="a", Body=BODY)
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert read(client, bucket, "a") == b"old"


def test_delay(faulty, through, place):
    """`delay` lets the request wait, and then all is as it should be."""
    _, bucket = place
    faulty.add("delay", "GET", "/a$", times=1, seconds=0.2)
    begun = time.monotonic()
    assert read(through, bucket, "a") == b"old"
    assert time.monotonic() - begun >= 0.2
    assert faulty.hits("delay") == 1


def test_stall(faulty, place):
    """`stall` says nothing after `keep` bytes, for longer than the client waits."""
    client, bucket = place
    client.put_object(Bucket=bucket, Key="a", Body=BODY)
    faulty.add("stall", "GET", "/a$", times=1, keep=10, seconds=60)
    impatient = faulty.client(read_timeout=0.2)
    with pytest.raises(botocore_exceptions.ReadTimeoutError):
        read(impatient, bucket, "a")
    assert read(impatient, bucket, "a") == BODY
    impatient.close()


def test_throttle(faulty, through, place):
    """`throttle` lets the answer flow at a rate."""
    client, bucket = place
    client.put_object(Bucket=bucket, Key="a", Body=BODY)
    faulty.add("throttle", "GET", "/a$", times=1, rate=len(BODY) / 0.2)
    begun = time.monotonic()
    assert read(through, bucket, "a") == BODY
    assert time.monotonic() - begun >= 0.1  # all pieces but the last were waited for


def test_down(faulty, through, place):
    """While `down`, the proxy resets every connection."""
    _, bucket = place
    faulty.proxy.down = True
    with pytest.raises(NO_ANSWER):
        read(through, bucket, "a")
    faulty.proxy.down = False
    assert read(through, bucket, "a") == b"old"


@pytest.mark.parametrize("seed", [0, 1])
def test_chances_follow_the_seed(ministack, proxied, place, seed):
    """The same requests in the same order meet the same faults under the same seed."""
    _, bucket = place

    def statuses(seed):
        faulty = proxied(ministack, seed=seed)
        faulty.add("status", "PUT", chance=0.5)
        client = faulty.client()
        met = [put(client, bucket, "b", b"x") for _ in range(20)]
        client.close()
        return met

    assert statuses(seed) == statuses(seed) != statuses(seed + 1)
    assert set(statuses(seed)) == {200, 503}


def test_rule_is_a_known_fault(faulty):
    """A fault that does not exist is refused when it is added."""
    with pytest.raises(ValueError, match="no fault is called 'flip'"):
        faulty.add("flip")


# ---- starting and stopping


KILLED = """
import os, signal, subprocess, sys
server = subprocess.Popen(
    [sys.executable, sys.argv[1], "ministack"], stdout=subprocess.PIPE, start_new_session=True
)
server.stdout.readline()
print(server.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_server_ends_with_its_parent():
    """A server whose tests were killed ends by itself."""
    pytest.importorskip("ministack")
    server = Path(__file__).with_name("serve.py")
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(server)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as parent:
        pid = int(parent.stdout.readline())
        assert parent.wait() == -signal.SIGKILL
        try:
            # the server has this pipe too: it ends when the last of both is gone
            parent.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            os.kill(pid, signal.SIGKILL)
            raise


def test_server_ends_with_its_session():
    """After `serving` nothing listens, although a client is still connected."""
    pytest.importorskip("ministack")
    with sys.modules["castore_s3_servers"].serving("ministack") as endpoint:
        client = endpoint.client()
        client.list_buckets()
    with pytest.raises(NO_ANSWER):
        client.list_buckets()
    client.close()
