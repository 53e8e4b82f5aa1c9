"""``castore explain``."""

from __future__ import annotations

import json

import numpy as np
import pytest

ROWS = np.arange(40.0).reshape(20, 2)


def double(x):
    """Give twice `x`."""
    return x * 2


@pytest.fixture
def filled(store):
    """Keys of three entries of a table in two versions, in the order they were made."""
    keys = []
    for loader, what in ((ROWS[:10], {}), (ROWS[5:15], {}), (ROWS[5:15], {"version": 2})):
        store.get_or_compute(loader, double, "double", model=None, **what)
        keys.append(store.info(loader, double, "double", model=None, **what).key)
    return keys


def cells(text, title):
    """The lines of the table whose heading begins with `title`, as cells by the first."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(title))
    rows = [line.split(None, 3) for line in lines[start : lines.index("", start)]]
    return {row[0]: row[1:] for row in rows}


def test_explain_names_what_differs(run, filled):
    """An entry is shown beside the nearest other, with the values of each part that differs."""
    result = run("explain", filled[1][:12])
    assert result.exit_code == 0
    found = cells(result.stdout + "\n", "keyed")
    assert found["keyed"] == [filled[0][:8], filled[1][:8]]
    assert found["rows"] == ["10", "10", "5 of the 10 rows are the same"]
    assert len(found) == 2


def test_explain_takes_the_newest(run, filled):
    """Without KEY the entry made last is explained, of a table where one is named."""
    found = cells(run("explain").stdout, "keyed")
    assert found["keyed"][1] == filled[2][:8]
    assert found["version"] == ["None", "2"]
    assert run("explain", "--table", "double").stdout == run("explain").stdout


def test_explain_compares_two(run, filled):
    """With OTHER the two are compared, KEY to the left."""
    found = cells(run("explain", filled[2], filled[0]).stdout + "\n", "keyed")
    assert found["keyed"] == [filled[2][:8], filled[0][:8]]
    assert found["version"] == ["2", "None"]
    assert found["rows"][2] == "5 of the 10 rows are the same"


def test_explain_advises(run, filled):
    """What would have made the nearest entry answer is told below."""
    text = run("explain", filled[2]).stdout
    assert text.endswith("advice\n  everything else is equal: version=None asks for it\n")


def test_explain_tells_what_is_recorded(run, store, filled):
    """What is in no key and differs has a table of its own."""
    store.get_or_compute(ROWS, lambda x: x, "double", model=None)
    found = cells(run("explain").stdout + "\n", "recorded")
    assert found["functions.fn"][0] == "code"
    assert len(found["recorded"]) == 2


def test_explain_json_is_typed(run, filled):
    """JSON has both entries, and the documents of what differs as they are stored."""
    found = json.loads(run("explain", filled[2], "--json").stdout)
    assert (found["before"]["key"], found["after"]["key"]) == (filled[1], filled[2])
    assert found["before"]["rows"] == 10
    assert found["differences"] == [{"path": "version", "before": None, "after": 2, "note": ""}]
    assert found["recorded"] == []
    assert len(found["advice"]) == 1
    two = json.loads(run("explain", filled[0], filled[2], "--json").stdout)
    assert (two["before"]["key"], two["after"]["key"]) == (filled[0], filled[2])
    assert two["differences"][0] == {"path": "version", "before": None, "after": 2, "note": ""}


def test_explain_of_what_is_like_nothing(run, store):
    """Where nothing is like an entry, it is shown alone, and that is said beside the data."""
    store.get_or_compute(ROWS, double, "double", model=None)
    key = next(store.entries()).key
    result = run("explain")
    assert result.exit_code == 0
    assert key[:8] in result.stdout
    assert "nothing like it was found" in result.stderr
    found = json.loads(run("explain", key, "--json").stdout)
    assert (found["before"], found["after"]["key"], found["differences"]) == (None, key, [])


def test_explain_refuses_what_it_cannot_compare(run, store, filled):
    """One entry named twice, an unknown key, and an empty store end with 1."""
    same = run("explain", filled[0], filled[0][:10])
    assert (same.exit_code, same.stdout) == (1, "")
    assert f"both name the entry {filled[0]}" in same.stderr
    assert run("explain", "zz").exit_code == 1
    for key in filled:
        store.delete(key)
    empty = run("explain")
    assert (empty.exit_code, empty.stdout) == (1, "")
    assert "has no entries" in empty.stderr


@pytest.mark.parametrize(
    "words", [("",), ("ab", ""), ("--table", ""), ("ab", "--table", "double")], ids=repr
)
def test_explain_refuses_names_that_say_nothing(run, filled, words):
    """Empty names, and a table beside a key, are usage errors."""
    assert run("explain", *words).exit_code == 2
