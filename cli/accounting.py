"""``castore stats``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

import click

from castore import tally
from castore.canonical import Json
from castore.catalog import TableInfo
from castore.cli.fields import ENTRY_FIELDS, TABLE_FIELDS, Record, print_records
from castore.cli.output import print_json, print_lines
from castore.cli.quantities import count, local_time, named, rfc3339, size
from castore.cli.shared import FailedError, existing, json_option, note, store_option
from castore.stats import Stats
from castore.tally import Machine

__all__ = ["duration", "stats"]

_FIELDS = {**TABLE_FIELDS, "seconds": ENTRY_FIELDS["seconds"]}
_TOLD = ("suffix", "table", "entries", "rows", "size", "seconds")

#: What is counted, how much, and a remark.
_Line: TypeAlias = tuple[str, str, str]


@click.command(short_help="Tell how often a store answered, and what that saved.")
@store_option
@click.option("--reset", is_flag=True, help="Print the counts, and begin to count anew.")
@json_option
def stats(*, url: str | None, reset: bool, as_json: bool) -> None:
    """Tell how often a store answered on this machine, and what that saved.

    Counted is what processes of yours on this machine did with the store under this name; one
    that runs adds its counts about once a second. By table, it is what the store holds, whoever
    computed it.

    \b
    Examples:
      castore stats
      castore stats --json | jq .seconds_saved
    """  # noqa: D301  \b keeps the lines of the example
    store = existing(url)
    tables = [_record(info) for info in store.tables()]
    tables.sort(key=lambda record: record["seconds"], reverse=True)
    found = tally.forget(store.url) if reset else tally.machine(store.url)
    if reset and found.trouble:
        msg = f"the counts stay as they are: {found.trouble}"
        raise FailedError(msg)
    if as_json:
        print_json({"url": store.url, **_document(found), "tables": [dict(t) for t in tables]})
    else:
        _print(found, tables)
    if found.trouble:
        note(f"what was counted cannot be read: {found.trouble}")
    elif reset:
        note("counting begins anew")


def _record(info: TableInfo) -> Record:
    return {
        "suffix": info.suffix,
        "table": info.table,
        "entries": info.entries,
        "rows": info.rows,
        "size": info.nbytes,
        "seconds": info.compute_seconds,
    }


def _document(found: Machine) -> dict[str, Json]:
    counted = found.stats
    return {
        "since": rfc3339(found.since),
        "processes": found.processes,
        "requests": counted.requests,
        "hit_rate": counted.hit_rate,
        **dataclasses.asdict(counted),
    }


def _print(found: Machine, tables: Sequence[Record]) -> None:
    if found.stats != Stats():
        by = f" by {named(found.processes, 'process', 'processes')}" if found.processes else ""
        click.echo(f"counted on this machine since {local_time(found.since)}{by}\n")
        print_lines(_lines(found.stats), right=[1])
    elif not found.trouble:
        note("nothing was counted on this machine yet")
    if tables:
        click.echo()
        print_records(tables, _TOLD, _FIELDS)


def _lines(counted: Stats) -> Iterator[_Line]:
    """Yield what happened; what did not is left out, unless one would look for it."""
    yield "requests", count(counted.requests), ""
    yield "  hits", count(counted.hits), _share(counted.hits, counted)
    yield from _if_any(
        "  partial hits", counted.partial_hits, _share(counted.partial_hits, counted)
    )
    missed = sum(counted.misses.values())
    yield "  misses", count(missed), _share(missed, counted)
    yield from _reasons(counted.misses, "    ")
    if counted.uncached:
        yield "not stored", count(sum(counted.uncached.values())), "computed and returned"
        yield from _reasons(counted.uncached, "  ")
    yield from _if_any("disagreements", counted.disagreements, "another's result stays")
    yield _GAP
    yield "rows computed", count(counted.rows_computed), ""
    yield from _if_any("  mended", counted.rows_mended, "what was stored of them was damaged")
    yield from _if_any("rows reused", counted.rows_reused, "from other requests' results")
    yield from _if_any("rows probed", counted.rows_probed, "computed twice: may rows be reused?")
    yield from _if_any("rows audited", counted.rows_audited, "computed twice: do they still agree?")
    yield from _if_any("audits failed", counted.audits_failed, "from then on nothing is reused")
    yield _GAP
    runs = named(counted.computations, "run", "runs")
    yield "time computing", duration(counted.compute_seconds), runs
    yield "time saved", duration(counted.seconds_saved), "what was answered had taken"
    if counted.waits:
        times = f"{named(counted.waits, 'time', 'times')}, for another to compute the same"
        yield "time waiting", duration(counted.wait_seconds), times
    yield _GAP
    yield "bytes served", size(counted.bytes_served), ""
    yield "bytes stored", size(counted.bytes_stored), named(counted.commits, "result", "results")


_GAP = ("", "", "")


def _if_any(name: str, number: int, remark: str) -> Iterator[_Line]:
    if number:
        yield name, count(number), remark


def _reasons(counts: Mapping[str, int], indent: str) -> Iterator[_Line]:
    for reason, number in counts.items():
        yield f"{indent}{reason}", count(number), ""


def _share(number: int, counted: Stats) -> str:
    return f"{number / counted.requests:.1%}" if counted.requests else ""


def duration(seconds: float) -> str:
    """Write how long something took: ``71 ms``, ``12.3 s``, ``3 min 05 s``, ``5 h 07 min``."""
    if round(seconds, 3) < 1:
        return f"{seconds * 1000:.0f} ms"
    if round(seconds, 1) < _SIXTY:
        return f"{seconds:.1f} s"
    minutes, left = divmod(round(seconds), _SIXTY)
    if minutes < _SIXTY:
        return f"{minutes} min {left:02} s"
    hours, left = divmod(round(seconds / _SIXTY), _SIXTY)
    if hours < _DAY:
        return f"{hours} h {left:02} min"
    return "{} d {:02} h".format(*divmod(round(seconds / _SIXTY**2), _DAY))


_SIXTY, _DAY = 60, 24
