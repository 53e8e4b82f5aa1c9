"""``castore init``."""

from __future__ import annotations

import json

import castore


def test_init_makes_a_store_that_others_find(run, tmp_path):
    """`castore init URL` makes an empty store at URL."""
    result = run("init", tmp_path / "new")
    assert result.exit_code == 0
    assert result.stdout == f"made a store at {tmp_path / 'new'} (blobs named by xxh3-128)\n"
    assert run("ls", "--store", tmp_path / "new").exit_code == 0


def test_init_without_url_follows_the_settings(run, store, tmp_path):
    """`castore init` makes the store that the settings name."""
    assert run("init").exit_code == 0
    assert (tmp_path / "store" / "castore.json").is_file()


def test_init_again_changes_nothing(run, keys, tmp_path):
    """`castore init` where there is a store says so, and leaves it as it is."""
    before = (tmp_path / "store" / "castore.json").read_bytes()
    result = run("init")
    assert result.exit_code == 0
    assert result.stdout.startswith("there is a store already")
    assert (tmp_path / "store" / "castore.json").read_bytes() == before


def test_init_records_the_digest(run, tmp_path):
    """The digest chosen at `init` is the store's; another one later is refused."""
    made = run("init", tmp_path / "new", "--digest", "sha256", "--json")
    assert json.loads(made.stdout) == {
        "url": str(tmp_path / "new"),
        "digest": "sha256",
        "created": True,
    }
    refused = run("init", tmp_path / "new", "--digest", "xxh3-128")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "sha256" in refused.stderr
    store = castore.open(tmp_path / "new")
    store.compute(lambda x: x + "!", suffix="shout", inputs={"x": "hello"})
    assert store.entry(next(store.entries()).key).manifest.algorithm == "sha256"


def test_an_unknown_digest_is_a_usage_error(run, tmp_path):
    """`--digest` takes the digests castore knows, and nothing is made otherwise."""
    assert run("init", tmp_path / "new", "--digest", "md5").exit_code == 2
    assert not (tmp_path / "new").exists()
