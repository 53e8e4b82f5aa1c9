"""``castore info`` and ``castore rm``."""

from __future__ import annotations

import json

import numpy as np
import pytest

import castore
from castore.errors import NotFoundError


def double(x):
    """Give twice `x`."""
    return x * 2


def left(store):
    """Keys still in the store."""
    return {entry.key for entry in store.entries()}


def pairs(text):
    """What `info` printed, as values by name."""
    split = (line.split(None, 1) for line in text.splitlines() if line.strip())
    return {words[0]: words[1].rstrip() for words in split if len(words) == 2}


def test_info_tells_what_is_keyed(run, keys):
    """`castore info` shows parameters, captured values, model and version as Python writes them."""
    shown = pairs(run("info", keys["features"][:12]).stdout)
    assert shown["key"] == keys["features"]
    assert shown["params.layer"] == "(3, 'relu')"
    assert shown["fn.scale"] == "1.5"
    assert shown["model"] == "0123456789abcdef" * 2
    assert shown["version"] == "'2'"
    assert shown["dataset"] == "array"
    assert shown["rows"].startswith("300, digest ")


def test_info_pads_no_line(run, keys):
    """Lines of different lengths end where their text ends."""
    lines = run("info", keys["features"]).stdout.splitlines()
    assert [line for line in lines if line != line.rstrip()] == []


def test_info_tells_what_is_not_keyed(run, store):
    """`castore info` lists captured things that are in no key, with their types."""
    stream = np.random.default_rng(0)
    store.get_or_compute(np.zeros((2, 2)), lambda x: x + (stream is None), "s", model=None)
    text = run("info", next(store.entries()).key).stdout
    below = text.partition("not keyed: ")[2]
    assert "fn.stream" in below
    assert "Generator" in below


def test_info_tells_what_is_stored(run, keys, store):
    """`castore info` has the type and size of each column, and the name of each blob."""
    text = run("info", keys["features"]).stdout
    assert "float64 (300, 100)  240.0 kB" in text
    (blob,) = store.entry(keys["features"]).manifest.blobs
    assert blob.name in text


def test_info_of_inputs(run, store):
    """`castore info` shows inputs that belong to no loader, arrays by type and digest."""
    store.compute(lambda x, n: x * n, suffix="s", inputs={"x": np.zeros((2, 3)), "n": 2})
    shown = pairs(run("info", next(store.entries()).key).stdout)
    assert shown["n"] == "2"
    assert shown["x"].startswith("<array float64 (2, 3) ")
    assert shown["rows"] == "-"


def test_info_json_is_as_stored(run, keys, store):
    """JSON has the derivation as it is stored, typed, and where each Zarr key lies."""
    found = json.loads(run("info", keys["features"], "--json").stdout)
    manifest = store.entry(keys["features"]).manifest
    assert found["derivation"] == manifest.derivation
    assert found["derivation"]["table"]["captured"]["fn.scale"] == {"float": "1.5"}
    assert found["origin"] == manifest.origin
    assert set(found["stored"]) == set(manifest.chunks)
    assert sum(part["size"] for part in found["stored"].values()) == found["size"]
    assert [p["blob"] for p in found["stored"].values() if p["blob"]] == [
        blob.name for blob in manifest.blobs
    ]


def test_info_takes_any_unique_prefix(run, keys):
    """A key prefix counts if it is unique, in upper case too; none at all is a usage error."""
    assert pairs(run("info", keys["small"][:16].upper()).stdout)["key"] == keys["small"]
    assert run("info", "").exit_code == 2


def test_info_refuses_an_ambiguous_prefix(run, store):
    """A prefix that several keys share is refused, naming how many."""
    for rows in range(1, 18):  # one more than there are first digits
        store.get_or_compute(np.zeros((rows, 2)), double, "double", model=None)
    firsts = [key[0] for key in left(store)]
    first = max(firsts, key=firsts.count)
    result = run("info", first)
    assert result.exit_code == 1
    assert f"{firsts.count(first)} entries" in result.stderr


def test_rm_deletes_the_entries_named(run, keys, store):
    """`castore rm KEY...` deletes those entries and no other; their blobs stay for collection."""
    blobs = store.entry(keys["features"]).manifest.blobs
    result = run("rm", keys["features"][:16], keys["small"], "--yes")
    assert result.exit_code == 0
    assert left(store) == {keys["large"]}
    assert "deleted 2 entries" in result.stderr
    assert "blobs go with the next collection" in result.stderr
    assert keys["features"][:8] in result.stdout
    assert store.usage().unreferenced == sum(blob.length for blob in blobs) > 0


def test_rm_deletes_a_table(run, keys, store):
    """`--table` deletes all entries of a table, by suffix or id."""
    assert run("rm", "--table", "double", "--yes").exit_code == 0
    assert left(store) == {keys["features"]}
    table = store.entry(keys["features"]).manifest.table
    assert run("rm", "--table", table[:12], "--yes").exit_code == 0
    assert left(store) == set()


def test_rm_refuses_a_suffix_of_two_tables(run, keys, store):
    """A suffix that two tables share deletes nothing, and the ids to choose from are named."""
    store.get_or_compute(np.zeros((2, 2)), double, "double", model=None, version=2)
    before = left(store)
    result = run("rm", "--table", "double", "--yes")
    assert result.exit_code == 1
    tables = {table.table for table in store.tables() if table.suffix == "double"}
    assert len(tables) == 2
    assert all(table in result.stderr for table in tables)
    assert left(store) == before


@pytest.mark.parametrize("wrong", ["0", "zz"])
def test_rm_is_all_or_nothing(run, keys, store, wrong):
    """If one name is unknown, nothing is deleted."""
    before = left(store)
    unknown = wrong * 16
    assert run("rm", keys["small"], unknown, "--yes").exit_code == 1
    assert run("rm", keys["small"], "--table", unknown, "--yes").exit_code == 1
    assert left(store) == before


@pytest.mark.parametrize("words", [["rm"], ["rm", ""], ["rm", "--table", ""]], ids=repr)
def test_rm_refuses_empty_names(run, store, words):
    """No name, or the empty one of a variable that is not set, is a usage error."""
    store.get_or_compute(np.zeros((2, 2)), double, model=None)
    assert run(*words, "--yes").exit_code == 2
    assert len(left(store)) == 1


def test_rm_counts_an_entry_named_twice_once(run, keys, store):
    """An entry named by two prefixes and its table is deleted, and counted, once."""
    words = ("rm", keys["small"], keys["small"][:20], "--table", "double", "--json")
    for last in ("--dry-run", "--yes"):
        found = json.loads(run(*words, last).stdout)
        named = sorted(entry["key"] for entry in found["entries"])
        assert named == sorted([keys["small"], keys["large"]])


def test_rm_dry_run_deletes_nothing(run, keys, store):
    """`-n` shows what would be deleted, asks nothing, and deletes nothing."""
    before = left(store)
    result = run("rm", "--table", "double", "-n")
    assert result.exit_code == 0
    assert keys["small"][:8] in result.stdout
    assert "would delete 2 entries" in result.stderr
    found = json.loads(run("rm", keys["small"], "-n", "--json").stdout)
    assert found["dry_run"] is True
    assert [entry["key"] for entry in found["entries"]] == [keys["small"]]
    assert left(store) == before


def test_rm_off_a_terminal_needs_yes(spawn, keys, store):
    """Where nobody can answer, `rm` without --yes is a usage error that says so."""
    done = spawn("rm", keys["small"])
    assert (done.returncode, done.stdout) == (2, "")
    assert "--yes" in done.stderr
    assert keys["small"] in left(store)


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 1), ("", 1)])
def test_rm_asks_on_a_terminal(keys, store, terminal, answer, code):
    """On a terminal `rm` shows the entries and asks; only y deletes them."""
    session = terminal("rm", keys["small"][:16])
    session.until("Delete 1 entry, ")
    session.until("[y/N]")
    session.type(f"{answer}\n")
    exit_code, lines = session.end()
    assert exit_code == code
    assert any(line.startswith(keys["small"][:8]) for line in lines)
    assert (keys["small"] in left(store)) == (code != 0)


def test_rm_obeys_a_read_only_mode(run, keys, store, monkeypatch):
    """With CASTORE_MODE=ro nothing is deleted."""
    monkeypatch.setenv("CASTORE_MODE", "ro")
    result = run("rm", keys["small"], "--yes")
    assert (result.exit_code, result.stdout) == (1, "")
    assert 'mode="ro"' in result.stderr
    assert keys["small"] in left(store)


def test_a_deleted_entry_is_a_miss(run, keys):
    """After `castore rm` another opening of the store does not find the entry."""
    run("rm", keys["small"], "--yes")
    with pytest.raises(NotFoundError):
        castore.open().entry(keys["small"])
