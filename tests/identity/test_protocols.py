"""What says of itself, or has been said, what identifies it."""

from __future__ import annotations

import collections
import datetime as dt
import decimal
import fractions
import operator
import re
import uuid

import numpy as np
import pytest

import castore
from castore.errors import ConfigError, FingerprintError
from castore.identity import protocols
from castore.identity.protocols import (
    UNSAID,
    add_whole,
    as_whole,
    known,
    register_fingerprint,
    said_by,
)
from castore.identity.values import encode


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """Registrations that last as long as a test."""
    monkeypatch.setattr(protocols, "_registered", {})


class Plain:
    """A type that says nothing."""


class Speaking:
    """A type that says what identifies it."""

    def __init__(self, says):
        self.says = says

    def __castore_fingerprint__(self):
        return self.says


# What is said


def test_types_that_say_nothing_are_unsaid():
    """A value whose type has no method and no registration says nothing."""
    for value in (Plain(), 1, None, Plain, Speaking):
        assert said_by(value, "it") is UNSAID


def test_a_method_says_what_identifies_an_object():
    """``__castore_fingerprint__`` of the type is asked, not one that was set on the object."""
    assert said_by(Speaking(3), "it") == 3
    assert said_by(Speaking(None), "it") is None
    value = Plain()
    value.__castore_fingerprint__ = lambda: 1
    assert said_by(value, "it") is UNSAID


def test_a_registered_function_says_what_identifies_an_object():
    """A function registered for a type serves its subclasses; the nearest type's is asked."""
    sub = type("Sub", (Plain,), {})
    register_fingerprint(Plain, lambda value: "plain")
    assert said_by(Plain(), "it") == said_by(sub(), "it") == "plain"
    register_fingerprint(sub, lambda value: "sub")
    assert (said_by(Plain(), "it"), said_by(sub(), "it")) == ("plain", "sub")


def test_a_later_registration_replaces_an_earlier_one():
    """For one type the last function counts, also over a method of that type."""
    register_fingerprint(Speaking, lambda value: 1)
    register_fingerprint(Speaking, lambda value: 2)
    assert said_by(Speaking(3), "it") == 2


def test_a_subclass_that_speaks_for_itself_is_heard():
    """What a subclass says of itself goes before what was registered for its base."""
    register_fingerprint(Plain, lambda value: "plain")
    sub = type("Sub", (Plain, Speaking), {})
    sub.__castore_fingerprint__ = Speaking.__castore_fingerprint__
    assert said_by(sub(3), "it") == 3


@pytest.mark.parametrize("error", [ValueError, RecursionError, AttributeError, StopIteration])
def test_what_fails_to_say_is_refused(error):
    """A method or function that raises is a refusal with the name of both, and the cause."""

    def fail(value):
        raise error("no luck")

    register_fingerprint(Plain, fail)
    with pytest.raises(FingerprintError, match=rf"fail raised {error.__name__}: no luck") as caught:
        said_by(Plain(), "it")
    assert str(caught.value).startswith("it: ")
    assert isinstance(caught.value.__cause__, error)
    kind = type("Odd", (), {"__castore_fingerprint__": fail})
    with pytest.raises(FingerprintError, match=f"raised {error.__name__}"):
        said_by(kind(), "it")
    with pytest.raises(FingerprintError, match="raised TypeError"):
        said_by(type("Odd", (), {"__castore_fingerprint__": 3})(), "it")


@pytest.mark.parametrize("kind", [1, "int", None, [int], Plain()], ids=type)
def test_only_types_can_be_registered(kind):
    """To register for what is no type is a ConfigError that shows it."""
    with pytest.raises(ConfigError, match="give a type and a function"):
        castore.register_fingerprint(kind, str)
    with pytest.raises(ConfigError, match="give a type and a function"):
        castore.register_fingerprint(Plain, "text")


def test_what_is_said_is_keyed_with_the_type():
    """Equal things said by two types are two values, and different things are different."""
    other = type("Other", (Speaking,), {})
    documents = [encode(value) for value in (Speaking(1), Speaking(2), Speaking("1"), other(1))]
    assert len({str(document) for document in documents}) == 4
    assert encode(Speaking(np.arange(3))) == encode(Speaking(np.arange(3)))
    assert encode([Speaking(Speaking(1))]) != encode([Speaking(1)])


def test_what_is_said_without_a_rule_is_refused():
    """A fingerprint castore has no rule for, or that is the object itself, is refused."""
    with pytest.raises(FingerprintError, match=r"it is a builtins\.object"):
        encode(Speaking(object()), "it")
    itself = Speaking(None)
    itself.says = [itself]
    with pytest.raises(FingerprintError, match="contains itself"):
        encode(itself, "it")


# Datasets and loaders


def test_the_first_rule_that_knows_a_whole_describes_it(monkeypatch):
    """Rules are asked in their order, and None means none knows; a refusal is passed on."""
    monkeypatch.setattr(protocols, "_wholes", [])
    add_whole(lambda value: {"one": 1} if value == 1 else None)
    add_whole(lambda value: {"two": 2} if value in (1, 2) else None)
    assert [as_whole(value) for value in (1, 2, 3)] == [{"one": 1}, {"two": 2}, None]

    @add_whole
    def refuse(value):
        raise FingerprintError("no")

    assert callable(refuse)
    assert as_whole(1) == {"one": 1}
    with pytest.raises(FingerprintError, match="no"):
        as_whole(3)


# Known types


DIFFERENT = {
    "date": [dt.date(2020, 1, 1), dt.date(2020, 1, 2)],
    "datetime": [
        dt.datetime(2020, 1, 1),  # noqa: DTZ001
        dt.datetime(2020, 1, 1, fold=1),  # noqa: DTZ001
        dt.datetime(2020, 1, 1, microsecond=1),  # noqa: DTZ001
        dt.datetime(2020, 1, 1, tzinfo=dt.timezone.utc),  # noqa: UP017
        dt.datetime(2020, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1))),
    ],
    "decimal": [decimal.Decimal(text) for text in ("1", "1.0", "-0", "0", "NaN", "1E+1")],
    "fraction": [fractions.Fraction(1, 2), fractions.Fraction(2, 1), fractions.Fraction(1)],
    "getter": [
        operator.attrgetter("a"),
        operator.attrgetter("a", "b"),
        operator.itemgetter("a"),
        operator.itemgetter(1),
        operator.itemgetter("1"),
    ],
    "pattern": [
        re.compile("a"),
        re.compile("b"),
        re.compile("a", re.IGNORECASE),
        re.compile(b"a"),
    ],
    "time": [dt.time(1), dt.time(1, fold=1), dt.time(2)],
    "timedelta": [dt.timedelta(1), dt.timedelta(0, 1), dt.timedelta(0, 0, 1), dt.timedelta(-1)],
    "timezone": [dt.timezone(dt.timedelta(hours=h)) for h in (0, 1, -1)],
    "uuid": [uuid.UUID(int=1), uuid.UUID(int=2)],
}


@pytest.mark.parametrize("values", DIFFERENT.values(), ids=DIFFERENT)
def test_values_of_known_types_are_told_apart(values):
    """Objects of Python's own types that differ have different documents."""
    assert len({str(encode(value)) for value in values}) == len(values)
    for value in values:
        name, _ = known(value)
        assert name.endswith(type(value).__name__)


def test_time_zones_of_one_name_are_told_apart():
    """A time zone is its offset too, whatever it is called."""
    one, two = (dt.timezone(dt.timedelta(hours=h), "home") for h in (1, 2))
    assert encode(one) != encode(two)


def test_known_types_hold_for_no_subclass_of_pythons_own():
    """A date, say, of the user's own may mean something else."""
    sub = type("Day", (dt.date,), {})
    assert known(sub(2020, 1, 1)) is None
    for value in (1, "a", None, collections.OrderedDict(), Plain()):
        assert known(value) is None


def test_pictures_are_their_pixels():
    """A picture is its mode, size, pixels, palette and transparent colour, not its file."""
    image = pytest.importorskip("PIL.Image")

    def make(mode="P", size=(2, 2), value=0, palette=b"\0\1\2\3\4\5", **info):
        picture = image.new(mode, size, value)
        if mode == "P":
            picture.putpalette(palette)
        picture.info.update(info)
        return picture

    different = [
        make(),
        make(value=1),
        make(size=(4, 1)),
        make("L"),
        make(palette=b"\0\1\2\3\4\6"),
        make(transparency=1),
        make("RGB"),
    ]
    assert len({str(encode(picture)) for picture in different}) == len(different)
    assert encode(make(dpi=(72, 72), comment="x")) == encode(make())


def test_pictures_are_the_same_from_a_file(tmp_path):
    """A picture read from a file is the picture that was written."""
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 3), np.uint8)
    picture = image.fromarray(pixels)
    picture.save(tmp_path / "1.png")
    with image.open(tmp_path / "1.png") as found:
        assert encode(found) == encode(picture)


def test_tables_of_pandas_are_their_values_and_labels():
    """A frame, series or index is its values, names and labels, in their order."""
    pandas = pytest.importorskip("pandas")
    frames = [
        pandas.DataFrame({"a": [1, 2], "b": [3, 4]}),
        pandas.DataFrame({"b": [3, 4], "a": [1, 2]}),
        pandas.DataFrame({"a": [1, 2], "b": [3, 5]}),
        pandas.DataFrame({"a": [1, 2], "b": [3.0, 4.0]}),
        pandas.DataFrame({"a": [1, 2], "b": [3, 4]}, index=[1, 0]),
        pandas.DataFrame({"a": [1, 2], "b": [3, 4]}, index=pandas.Index([0, 1], name="i")),
        pandas.DataFrame({"a": ["1", "2"], "b": [3, 4]}),
        pandas.Series([1, 2], name="a"),
        pandas.Series([1, 2]),
        pandas.Series([1, 2], index=["x", "y"]),
        pandas.Index([1, 2]),
        pandas.Index([1, 2], name="a"),
    ]
    assert len({str(encode(frame)) for frame in frames}) == len(frames)
    assert encode(frames[0]) == encode(frames[0].copy())


def test_layouts_of_torch_are_known_by_name():
    """Memory formats and layouts are values, of their own kinds."""
    torch = pytest.importorskip("torch")
    values = [torch.channels_last, torch.contiguous_format, torch.strided, torch.sparse_coo]
    assert len({str(encode(value)) for value in values}) == 4


@pytest.mark.parametrize("kind", [dict, str, tuple, type(None)])
def test_plain_types_cannot_be_registered(kind):
    """What has a rule of its own keeps it, and to register it is an error, not ignored."""
    with pytest.raises(ConfigError, match="is what it holds"):
        register_fingerprint(kind, repr)
