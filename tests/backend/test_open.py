"""URLs: each names one place, from any folder, or is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from castore.backend.local import LocalBackend
from castore.backend.memory import MemoryBackend
from castore.backend.open import normalise, open_backend
from castore.errors import CastoreError, ConfigError, StoreURLError


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Stand in an empty folder; return its path."""
    monkeypatch.chdir(tmp_path)
    return os.fspath(tmp_path)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("features", "{here}/features"),
        ("./a/../b/", "{here}/b"),
        (".", "{here}"),
        ("/data/store", "/data/store"),
        ("/data//store/", "/data/store"),
        (Path("features"), "{here}/features"),
        ("~", "{home}"),
        ("~/store", "{home}/store"),
        (Path("~/store"), "{home}/store"),
        ("file:///data/store", "/data/store"),
        ("file://localhost/data/store", "/data/store"),
        ("FILE:///data", "/data"),
        ("file:///data/../other", "/other"),
        ("file:///with%20space/%C3%A9", "/with space/é"),
        ("with%20percent", "{here}/with%20percent"),
        ("c://x", "{here}/c:/x"),
        ("memory://name", "memory://name"),
        ("memory://a/b", "memory://a/b"),
    ],
)
def test_urls_name_one_place(url, place, here, monkeypatch):
    """A folder, a file URL and a memory URL mean the same place wherever one stands."""
    monkeypatch.setenv("HOME", "/home/somebody")
    found = normalise(url)
    assert found == place.format(here=here, home="/home/somebody")
    monkeypatch.chdir("/")
    assert normalise(found) == found


def test_links_in_a_path_stay(here):
    """A path keeps its symbolic links, so that a link may be pointed elsewhere later."""
    Path(here, "real").mkdir()
    Path(here, "link").symlink_to("real")
    assert normalise("link/store") == f"{here}/link/store"


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
def test_normalising_twice_changes_nothing(url):
    """Any text is a place that stays the same when it is normalised again, or is refused."""
    try:
        place = normalise(url)
    except StoreURLError:
        return
    assert normalise(place) == place


@pytest.mark.parametrize(
    "url",
    [
        *("", None, 5, b"bytes", ["list"], object()),
        *("s3://", "s3://b", "s3://bucket/a/../b", "s3://bucket/a//b", "s3://bucket/a?b"),
        *("http://host/x", "gs://b", "hf://datasets/x", "fiel:///data"),
        *("file://", "file://host/data", "file://data"),
        *("s3://[bucket", "file://["),
    ],
)
def test_other_urls_are_refused_by_name(url):
    """What names no store castore can open is refused with the URL and the forms there are."""
    with pytest.raises(StoreURLError, match=r"memory://name") as caught:
        normalise(url)
    assert str(url) in str(caught.value)


@pytest.mark.parametrize("url", ["file:///data?version=2", "file:///data#2", "folder\0name"])
def test_parts_of_a_url_are_not_lost(url):
    """A URL with a part that would be dropped, or that no file can have, is refused."""
    with pytest.raises(StoreURLError):
        normalise(url)


@pytest.mark.parametrize("url", ["s3://bucket/a/b", "S3://bucket/a/b/"])
def test_buckets_have_one_spelling(url):
    """Slashes at the ends of a path in a bucket, and capitals in the scheme, are nothing."""
    assert normalise(url) == "s3://bucket/a/b"


def test_buckets_are_opened_when_used():
    """Opening a bucket makes no request, and needs s3fs."""
    pytest.importorskip("s3fs")
    backend = open_backend("s3://no-such-bucket/store", {"anon": True})
    assert (backend.url, backend.near) == ("s3://no-such-bucket/store", False)


def test_options_of_a_bucket_are_for_buckets(tmp_path):
    """How to reach a bucket is refused where there is none, and named."""
    for url in (str(tmp_path), "memory://name"):
        with pytest.raises(ConfigError, match="storage_options= says how to reach a bucket"):
            open_backend(url, {"key": "x"})


@pytest.mark.parametrize("url", ["MEMORY://name", "Memory://name"])
def test_schemes_have_no_case(url):
    """A scheme in capitals names the same kind of place as one in small letters."""
    assert isinstance(open_backend(normalise(url)), MemoryBackend)


def test_backends_know_their_url(tmp_path):
    """A normalised URL opens a backend that has it, and nothing is made by that."""
    local = open_backend(normalise(tmp_path / "store"))
    assert isinstance(local, LocalBackend)
    assert local.url == str(tmp_path / "store")
    assert not (tmp_path / "store").exists()
    assert open_backend("memory://name").url == "memory://name"


def test_a_root_that_is_a_file_is_refused(tmp_path):
    """A file is no root: the error names it and says what a store needs."""
    (tmp_path / "file").write_text("not a store")
    with pytest.raises(StoreURLError, match=r"/file is a file: a store needs a folder"):
        open_backend(normalise(tmp_path / "file"))


def test_a_root_below_a_file_is_refused_when_written(tmp_path):
    """A root below a file reads as empty, and is a castore error with its path when written."""
    (tmp_path / "file").write_text("not a store")
    backend = open_backend(normalise(tmp_path / "file" / "store"))
    assert backend.get("castore.json") is None
    assert list(backend.list("tables/")) == []
    for write in (backend.check_writable, lambda: backend.put("castore.json", [b""])):
        with pytest.raises(CastoreError, match="file/store"):
            write()
