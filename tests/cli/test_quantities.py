"""Sizes, counts and times, written and read."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from castore.cli import quantities


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (40_960_000, "41.0 MB"),
        (10**12, "1.0 TB"),
        (2**62, "4.6 EB"),
        (10**22, "10,000.0 EB"),
    ],
)
def test_sizes_are_written_in_decimal_units(nbytes, text):
    """A size has one decimal of the largest unit in which it is at least 1."""
    assert quantities.size(nbytes) == text


@given(st.integers(0, 10**20))
def test_a_written_size_reads_as_about_the_same(nbytes):
    """What `size` writes, `read_size` reads, within the last decimal shown."""
    read = quantities.read_size(quantities.size(nbytes))
    assert abs(read - nbytes) <= nbytes * 0.051


@given(st.integers(0, 10**18), st.sampled_from(["", "B", " b"]))
def test_bytes_are_read_exactly(nbytes, unit):
    """A number of bytes is read as it is, however large."""
    assert quantities.read_size(f"{nbytes}{unit}") == nbytes


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("1GB", 10**9),
        ("1G", 10**9),
        ("1gb", 10**9),
        ("1.5 MB", 1_500_000),
        ("1.1GB", 1_100_000_000),
        ("1MiB", 2**20),
        ("2Ti", 2**41),
    ],
)
def test_sizes_are_read_with_units(text, nbytes):
    """Decimal and binary units are read in either case, and exactly."""
    assert quantities.read_size(text) == nbytes


@pytest.mark.parametrize("text", ["", "B", "-1", "1XB", "1e9", "1,000", "GB", "1 0", "१GB", "nan"])
def test_what_is_no_size_is_refused(text):
    """Text that is no size is refused, quoting it."""
    with pytest.raises(ValueError, match="is no size"):
        quantities.read_size(text)


@given(st.text())
def test_any_text_is_read_or_refused(text):
    """No text makes a reader fail otherwise than by `ValueError`, however long."""
    for read in (
        quantities.read_size,
        quantities.read_count,
        quantities.read_duration,
        quantities.read_seconds,
    ):
        for longer in (text, text * 1000, "9" * 5000 + text):
            try:
                assert read(longer) >= 0
            except ValueError as error:
                assert repr(longer) in str(error) or read is quantities.read_seconds  # noqa: PT017


def test_durations_are_read_with_units():
    """A length of time needs a unit; seconds of computing need none."""
    assert quantities.read_duration("90s") == 90
    assert quantities.read_duration("1.5h") == 5400
    assert quantities.read_duration("7d") == 7 * 86400
    assert quantities.read_duration("2w") == 14 * 86400
    assert quantities.read_seconds("1.5") == 1.5
    assert quantities.read_seconds("2m") == 120
    with pytest.raises(ValueError, match="'7' is no length of time"):
        quantities.read_duration("7")


@pytest.mark.parametrize(
    ("duration", "text"),
    [(-3, "0s"), (59.9, "59s"), (60, "1m"), (7199, "1h"), (86400 * 400, "400d"), (math.nan, "-")],
)
def test_ages_are_written_in_the_largest_unit(duration, text):
    """An age is a whole number of days, hours, minutes or seconds."""
    assert quantities.age(duration) == text


def test_moments_are_written_for_programs_in_utc():
    """An RFC 3339 time names the moment it was made of, to the millisecond."""
    text = quantities.rfc3339(1_700_000_000.25)
    assert text == "2023-11-14T22:13:20.250Z"
    assert datetime.fromisoformat(text) == datetime.fromtimestamp(1_700_000_000.25, UTC)
    assert quantities.rfc3339(math.nan) is None


def test_moments_are_written_for_people_to_the_minute():
    """A local time parses back to within a minute of the moment."""
    text = quantities.local_time(1_700_000_000.0)
    shown = datetime.strptime(text, "%Y-%m-%d %H:%M").astimezone()
    assert 0 <= 1_700_000_000.0 - shown.timestamp() < 60
    assert quantities.local_date(1_700_000_000.0) == text[:10]
    assert quantities.local_time(math.nan) == quantities.local_date(math.nan) == "-"
