"""``castore ls`` and ``castore du``."""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

import castore
from castore.cli.fields import TABLE_FIELDS


def double(x):
    """Give twice `x`."""
    return x * 2


def plain(lines):
    """Lines without their style."""
    return [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]


def listed(result):
    """The document a command printed."""
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def words(text):
    """The cells of each line printed."""
    return [line.split() for line in text.splitlines()]


def test_ls_shows_tables(run, keys, store):
    """`castore ls` has a line for each table, newest first, with short ids and human sizes."""
    heading, features, doubled = words(run("ls").stdout)
    tables = {table.suffix: table for table in store.tables()}
    assert heading == [
        "suffix",
        "version",
        "table",
        "entries",
        "rows",
        "size",
        "model",
        "newest",
        "age",
    ]
    assert features[:7] == [
        "features",
        "2",
        tables["features"].table[:8],
        "1",
        "300",
        *_size(tables["features"].nbytes),
    ]
    assert features[7] == "01234567"
    assert doubled[:2] == ["double", "-"]
    assert doubled[3:7] == ["2", "18", str(tables["double"].nbytes), "B"]


def _size(nbytes):
    return [f"{nbytes / 1000:.1f}", "kB"]


def test_ls_leaves_out_columns_nobody_uses(run, store):
    """Where no table has a version or a model, `castore ls` has no column for it."""
    store.get_or_compute(np.zeros((2, 2)), double, "double", model=None)
    (heading, _) = words(run("ls").stdout)
    assert heading == ["suffix", "table", "entries", "rows", "size", "newest", "age"]


def test_ls_is_aligned_and_whole_off_a_terminal(spawn, store):
    """Off a terminal each column begins at one place, nothing is cut, and no style is printed."""
    long = "features_of_" + "a_very_deep_layer_" * 12
    for suffix in (long, "short"):
        store.get_or_compute(np.zeros((2, 2)), double, suffix, model=None)
    lines = spawn("ls", FORCE_COLOR="1", COLUMNS="40").stdout.splitlines()
    assert any(line.startswith(f"{long}  ") for line in lines)
    assert len({line.index(table.table[:8]) for line in lines for table in store.tables()
                if table.table[:8] in line}) == 1  # fmt: skip
    assert not any("\x1b" in line or line != line.rstrip() for line in lines)


def test_ls_fits_a_terminal(keys, store, terminal):
    """On a terminal headings are bold, and lines are cut to its width rather than folded."""
    store.get_or_compute(np.zeros((2, 2)), double, "s" * 200, model=None)
    code, lines = terminal("ls", columns=90).end()
    assert code == 0
    assert "\x1b[1m" in lines[0]
    assert len(lines) == 4
    assert max(map(len, plain(lines))) <= 90
    assert any(line.startswith("sssssssss") and "…" in line for line in lines)


def test_ls_on_a_narrow_terminal_loses_no_column(keys, terminal):
    """A terminal too narrow for all columns still shows each of them."""
    _, lines = terminal("ls", columns=30).end()
    assert "suffix  " in plain(lines)[0]
    assert "features  " in plain(lines)[1]


def test_ls_takes_a_suffix_or_an_id(run, keys, store):
    """`castore ls TABLE` lists the same entries by suffix and by the first digits of the id."""
    table = next(info.table for info in store.tables() if info.suffix == "double")
    by_suffix = listed(run("ls", "double", "--json"))
    assert {entry["key"] for entry in by_suffix} == {keys["small"], keys["large"]}
    assert listed(run("ls", table[:10], "--json")) == by_suffix
    assert listed(run("ls", table[:10].upper(), "--json")) == by_suffix


def test_ls_shows_entries(run, keys):
    """`castore ls TABLE` has a line for each entry, newest first, with its columns."""
    heading, large, small = words(run("ls", "double").stdout)
    assert heading == ["key", "rows", "columns", "size", "seconds", "created"]
    assert large[:2] == [keys["large"][:8], "12"]
    assert large[2:6] == ["result", "float64", "(12,", "2)"]
    assert small[:2] == [keys["small"][:8], "6"]


def test_ls_of_a_suffix_of_two_tables_tells_them_apart(run, keys, store):
    """Where two tables share a suffix, `castore ls SUFFIX` lists both, with their ids."""
    store.get_or_compute(np.zeros((2, 2)), double, "double", model=None, version=2)
    heading, *lines = words(run("ls", "double").stdout)
    assert "table" in heading
    assert len({line[heading.index("table")] for line in lines}) == 2


def test_ls_refuses_an_ambiguous_id(run, store):
    """A beginning that several table ids share is refused, and so is none at all."""
    for number in range(17):  # one more than there are first digits
        store.get_or_compute(np.zeros((2, 2)), double, f"s{number}", model=None)
    ids = [table.table for table in store.tables()]
    first = next(digit for digit in "0123456789abcdef"
                 if sum(i.startswith(digit) for i in ids) > 1)  # fmt: skip
    result = run("ls", first)
    assert result.exit_code == 1
    assert "several tables" in result.stderr
    assert run("ls", "").exit_code == 1


def test_ls_of_the_empty_suffix_lists_functions_without_one(run, store):
    """`castore ls ''` lists what was computed without a suffix."""
    store.get_or_compute(np.zeros((2, 2)), double, model=None)
    assert [entry["rows"] for entry in listed(run("ls", "", "--json"))] == [2]


def test_ls_json_is_for_programs(run, keys, store):
    """JSON has whole ids, bytes as integers and RFC 3339 times in UTC."""
    features, doubled = listed(run("ls", "--json"))
    infos = {table.suffix: table for table in store.tables()}
    assert set(doubled) == set(TABLE_FIELDS) - {"age"}
    assert doubled["table"] == infos["double"].table
    assert (doubled["size"], doubled["rows"]) == (infos["double"].nbytes, 18)
    assert features["model"] == "0123456789abcdef" * 2
    newest = datetime.fromisoformat(features["newest"])
    assert features["newest"].endswith("Z")
    assert abs(newest.timestamp() - infos["features"].created) < 0.01

    (entry,) = listed(run("ls", "features", "--json"))
    assert entry["key"] == keys["features"]
    assert entry["columns"] == {"mean": "float64 (300,)", "x": "float64 (300, 100)"}
    assert isinstance(entry["seconds"], float)


def test_ls_quiet_prints_only_ids(run, keys, store):
    """`-q` prints whole ids, one a line: of tables, or of a table's entries."""
    assert run("ls", "-q").stdout.split() == [table.table for table in store.tables()]
    assert run("ls", "double", "-q").stdout.split() == [keys["large"], keys["small"]]
    assert run("ls", "-q", "--json").exit_code == 2


@pytest.mark.parametrize(
    ("conditions", "suffixes"),
    [
        ([], ["features", "double"]),
        (["size>1kB"], ["features"]),
        (["rows<=18"], ["double"]),
        (["suffix=doub*"], ["double"]),
        (["suffix!=doub*"], ["features"]),
        (["model=0123*"], ["features"]),
        (["model="], ["double"]),
        (["version=2", "entries=1"], ["features"]),
        (["version=2", "entries=2"], []),
        (["age<1d"], ["features", "double"]),
        (["age>=1d"], []),
    ],
)
def test_ls_filters(run, keys, conditions, suffixes):
    """Every `--filter` must hold for what is listed."""
    options = [word for condition in conditions for word in ("--filter", condition)]
    assert [table["suffix"] for table in listed(run("ls", *options, "--json"))] == suffixes


def test_ls_filters_entries(run, keys):
    """Conditions hold for entries too, by the fields entries have."""
    found = listed(run("ls", "double", "--filter", "rows>6", "--filter", "seconds<1h", "--json"))
    assert [entry["key"] for entry in found] == [keys["large"]]
    assert run("ls", "double", "--filter", "entries>6").exit_code == 2


@pytest.mark.parametrize(
    "words",
    [
        ["--filter", "size>1XB"],
        ["--filter", "size"],
        ["--filter", "colour=red"],
        ["--filter", "suffix>a"],
        ["--filter", "age<7"],
        ["--sort", "colour"],
        ["--sort", "size:up"],
        ["--limit", "-1"],
    ],
    ids=" ".join,
)
def test_ls_explains_conditions_it_cannot_read(run, keys, words):
    """A condition or order that cannot be read is a usage error that quotes it."""
    result = run("ls", *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert words[1] in result.stderr


def test_ls_sorts_and_limits(run, keys):
    """`--sort` orders by a field either way; `--limit` keeps the first."""
    by_size = listed(run("ls", "--sort", "size", "--json"))
    assert [table["suffix"] for table in by_size] == ["double", "features"]
    down = listed(run("ls", "--sort", "size:desc", "--json"))
    assert down == by_size[::-1]
    assert listed(run("ls", "--sort", "size:desc", "--limit", "1", "--json")) == down[:1]
    entries = listed(run("ls", "double", "--sort", "rows:asc", "--json"))
    assert [entry["rows"] for entry in entries] == [6, 12]


def test_ls_of_an_empty_store_prints_no_data(run, store):
    """An empty store is listed as nothing, with a note on stderr and exit code 0."""
    store.init()
    result = run("ls")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "nothing" in result.stderr


def test_ls_outlives_a_damaged_manifest(run, keys, tmp_path):
    """A damaged manifest hides its own entry and no other."""
    (manifest,) = (tmp_path / "store").glob(f"tables/*/entries/{keys['small']}.json")
    manifest.write_bytes(manifest.read_bytes()[:-9])
    assert run("ls", "double", "-q").stdout.split() == [keys["large"]]


def test_a_suffix_cannot_move_the_cursor(run, store):
    """Control characters of a suffix are shown as escapes, in columns and in `info`."""
    store.get_or_compute(np.zeros((2, 2)), double, "a\x1b[2Jb\nc", model=None)
    (key,) = run("ls", "-q", "a\x1b[2Jb\nc").stdout.split()
    for result in (run("ls"), run("info", key)):
        assert "\x1b" not in result.stdout
        assert r"a\x1b[2Jb\nc" in result.stdout


def test_du_adds_up_what_lies_in_the_folder(run, keys, store, tmp_path):
    """`castore du --json` has the bytes of all files as physical, and of all tables as logical."""
    found = listed(run("du", "--json"))
    files = [path for path in Path(tmp_path / "store").rglob("*") if path.is_file()]
    assert found["physical"] == sum(path.stat().st_size for path in files)
    assert found["physical"] == sum(found[n] for n in ("referenced", "unreferenced", "documents"))
    assert found["logical"] == sum(table["size"] for table in found["tables"])
    assert [table["suffix"] for table in found["tables"]] == ["features", "double"]


def test_du_tells_what_collection_will_free(run, keys, store):
    """The blobs of a deleted entry are unreferenced bytes."""
    before = listed(run("du", "--json"))
    store.delete(keys["features"])
    after = listed(run("du", "--json"))
    assert before["referenced"] > 0
    assert before["unreferenced"] == after["referenced"] == 0
    assert after["unreferenced"] == before["referenced"]


def test_du_is_readable(run, keys, store):
    """`castore du` names each sum, in human sizes, and lists the tables, largest first."""
    store.get_or_compute(np.zeros((1, 1)), double, "newest", model=None)
    lines = run("du").stdout.splitlines()
    assert [line.split()[0] for line in lines if line] == [
        "logical",
        "referenced",
        "unreferenced",
        "documents",
        "physical",
        "suffix",
        "features",
        "double",
        "newest",
    ]
    assert lines[0].split()[2] == "kB"


def test_du_of_an_empty_store_is_its_own_document(run, store):
    """A store without entries takes the bytes of its format document."""
    castore.init(store.url)
    found = listed(run("du", "--json"))
    assert (found["logical"], found["tables"]) == (0, [])
    assert found["physical"] == found["documents"] > 0
    assert "physical" in run("du").stdout
