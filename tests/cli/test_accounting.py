"""``castore stats``."""

from __future__ import annotations

import json
import re
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from castore import tally
from castore.cli.accounting import duration

COUNTED = {
    "hits": 1100,
    "partial_hits": 31,
    "misses.absent": 70,
    "misses.damaged": 3,
    "uncached.fingerprint": 4,
    "waits": 12,
    "wait_ns": 2_300_000_000,
    "computations": 73,
    "rows_computed": 41_000,
    "rows_reused": 4_999,
    "compute_ns": 2470 * 10**9,
    "saved_ns": 11_533 * 10**9,
    "commits": 73,
    "bytes_served": 41_000_000_000,
    "bytes_stored": 1_200_000_000,
}


@pytest.fixture
def count(store):
    """Add to the counters of a store that is there, and empty; `count` alone adds `COUNTED`."""
    store.init()
    recorder = tally.recorder(store.url)

    def add(counts=COUNTED):
        for name, amount in counts.items():
            recorder.add(name, amount)
        tally.flush()

    return add


def cells(result):
    """The cells of each line that was printed, by the first."""
    assert result.exit_code == 0, result.stderr
    lines = [re.split(r"\s{2,}", line.strip()) for line in result.stdout.splitlines()]
    return {line[0]: line[1:] for line in lines}


def document(result):
    """The document that was printed."""
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_stats_tells_what_was_counted(run, count):
    """People read counts with separators, shares, lengths of time and sizes."""
    count()
    found = cells(run("stats"))
    assert found["requests"] == ["1,204"]
    assert found["hits"] == ["1,100", "91.4%"]
    assert found["partial hits"] == ["31", "2.6%"]
    assert found["misses"] == ["73", "6.1%"]
    assert found["absent"] == ["70"]
    assert found["not stored"][0] == found["fingerprint"][0] == "4"
    assert found["rows computed"] == ["41,000"]
    assert found["rows reused"][0] == "4,999"
    assert found["time computing"] == ["41 min 10 s", "73 runs"]
    assert found["time saved"][0] == "3 h 12 min"
    assert found["time waiting"] == ["2.3 s", "12 times, for another to compute the same"]
    assert found["bytes served"] == ["41.0 GB"]
    assert found["bytes stored"] == ["1.2 GB", "73 results"]


def test_stats_says_since_when_and_of_how_many(run, count):
    """The first line says since when there are counts, and how many processes made them."""
    count()
    first = run("stats").stdout.splitlines()[0]
    pattern = r"counted on this machine since \d{4}-\d\d-\d\d \d\d:\d\d by 1 process"
    assert re.fullmatch(pattern, first)


def test_stats_leaves_out_what_never_happened(run, count):
    """What did not happen has no line, but for what one looks for first."""
    count({"misses.absent": 1})
    found = cells(run("stats"))
    assert found["hits"] == ["0", "0.0%"]
    assert not {"partial hits", "not stored", "rows audited", "time waiting", "mended"} & set(found)


def test_stats_json_has_numbers(run, count, store):
    """JSON has every counter as a number, times in seconds, and when counting began."""
    count()
    found = document(run("stats", "--json"))
    assert (found["url"], found["processes"]) == (store.url, 1)
    assert datetime.fromisoformat(found["since"]).timestamp() == pytest.approx(
        tally.machine(store.url).since, abs=0.01
    )
    assert (found["requests"], found["hit_rate"]) == (1204, 1100 / 1204)
    assert found["misses"] == {"absent": 70, "damaged": 3}
    assert found["uncached"] == {"fingerprint": 4}
    assert (found["compute_seconds"], found["seconds_saved"]) == (2470.0, 11533.0)
    assert (found["wait_seconds"], found["bytes_served"]) == (2.3, 41_000_000_000)
    assert (found["rows_audited"], found["tables"]) == (0, [])


def test_stats_has_what_the_store_holds(run, keys, store):
    """Below the counts each table has its entries, rows, bytes and seconds, the slowest first."""
    result = document(run("stats", "--json"))["tables"]
    tables = {info.suffix: info for info in store.tables()}
    assert {table["suffix"]: table for table in result} == {
        name: {
            "suffix": name,
            "table": info.table,
            "entries": info.entries,
            "rows": info.rows,
            "size": info.nbytes,
            "seconds": info.compute_seconds,
        }
        for name, info in tables.items()
    }
    assert result == sorted(result, key=lambda table: table["seconds"], reverse=True)
    found = cells(run("stats"))
    assert found["suffix"] == ["table", "entries", "rows", "size", "seconds"]
    assert found["double"][:3] == [tables["double"].table[:8], "2", "18"]


def test_a_table_took_as_long_as_its_entries(keys, store):
    """The compute seconds of a table are the sum of its entries'."""
    took = [entry.compute_seconds for entry in store.entries() if entry.suffix == "double"]
    (table,) = (info for info in store.tables() if info.suffix == "double")
    assert len(took) == 2
    assert table.compute_seconds == pytest.approx(sum(took))


def test_stats_of_what_was_never_used_prints_no_data(run, store):
    """Of a store that nobody used, stats prints nothing, with a note, and JSON zeros."""
    store.init()
    result = run("stats")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "nothing was counted" in result.stderr
    found = document(run("stats", "--json"))
    assert (found["since"], found["hit_rate"], found["hits"]) == (None, None, 0)


def test_reset_prints_and_begins_anew(run, count):
    """`--reset` prints the counts for the last time; what comes then is counted from nothing."""
    count()
    assert cells(run("stats", "--reset"))["requests"] == ["1,204"]
    assert document(run("stats", "--json"))["requests"] == 0
    count({"hits": 2})
    assert document(run("stats", "--json"))["hits"] == 2


def test_stats_goes_on_where_counts_cannot_be_read(run, count, monkeypatch, tmp_path):
    """Where the counts cannot be read stats says why, shows the tables, and resets nothing."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    tally.path().mkdir(parents=True)
    result = run("stats")
    assert (result.exit_code, result.stdout) == (0, "")
    assert str(tally.path()) in result.stderr
    assert document(run("stats", "--json"))["tables"] == []
    result = run("stats", "--reset")
    assert (result.exit_code, result.stdout) == (1, "")
    assert str(tally.path()) in result.stderr


def test_stats_tells_what_other_processes_did(count, spawn):
    """The command, in a process of its own, tells what this one counted."""
    count()
    found = json.loads(spawn("stats", "--json").stdout)
    assert (found["hits"], found["processes"]) == (1100, 1)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.0714, "71 ms"),
        (0.9996, "1.0 s"),
        (12.34, "12.3 s"),
        (59.96, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.6, "1 h 00 min"),
        (11533, "3 h 12 min"),
        (86399, "1 d 00 h"),
        (1e6, "11 d 14 h"),
    ],
)
def test_durations_are_told_in_two_units(seconds, text):
    """A length of time is told in the units a person would use."""
    assert duration(seconds) == text


UNITS = {"ms": 1e-3, "s": 1, "min": 60, "h": 3600, "d": 86400}


@given(st.floats(0, 1e9))
def test_durations_are_right(seconds):
    """What is told of a length of time is right to within half its smallest unit."""
    parts = re.findall(r"([\d.]+) (\w+)", duration(seconds))
    half = 0.05 if parts[-1][1] == "s" and "." in parts[-1][0] else UNITS[parts[-1][1]] / 2
    assert abs(sum(float(n) * UNITS[unit] for n, unit in parts) - seconds) <= half * 1.001
    assert len(parts) == 1 or float(parts[1][0]) < {"s": 60, "min": 60, "h": 24}[parts[1][1]]
