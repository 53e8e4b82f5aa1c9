"""``--filter`` and ``--sort``: a small typed language over the fields of a listing."""

from __future__ import annotations

import fnmatch
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from castore.cli.fields import Field, Record

__all__ = ["Condition", "Order", "read_condition", "read_order", "select"]

_CONDITION = re.compile(r"\s*(\w+)\s*(<=|>=|!=|=|<|>)(?!=)\s*(.*?)\s*", re.DOTALL)
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    "=": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    ">": operator.gt,
}


@dataclass(frozen=True)
class Condition:
    """What ``--filter`` asks of a record.

    Attributes
    ----------
    name : str
        Field.
    sign : str
        How its value is compared.
    value : Any
        With what: a number, or the pattern of a text.
    show : callable
        From the field's value to its text.
    """

    name: str
    sign: str
    value: Any
    show: Callable[[Any], str]

    def holds(self, record: Record) -> bool:
        """Tell whether `record` fulfils it; where it has no number, only ``!=`` holds."""
        found = record[self.name]
        if isinstance(self.value, re.Pattern):
            return (self.value.fullmatch(self.show(found)) is not None) == (self.sign == "=")
        if found is None:
            return self.sign == "!="
        return _COMPARE[self.sign](found, self.value)


def read_condition(text: str, fields: Mapping[str, Field]) -> Condition:
    """Read ``size>1GB``, ``rows>=100``, ``suffix=abc*`` or ``age<7d``.

    Raises
    ------
    ValueError
        If it is none of them.
    """
    known = [name for name, field in fields.items() if field.read or not field.measured]
    found = _CONDITION.fullmatch(text)
    if not found or found[1] not in known:
        msg = (
            f"{text!r} is no condition: write it as 'size>1GB', 'rows>=100', 'suffix=abc*' or "
            f"'age<7d'; there are {', '.join(known)}"
        )
        raise ValueError(msg)
    name, sign, value = found.groups()
    field = fields[name]
    if field.read:
        try:
            return Condition(name, sign, field.read(value), field.show)
        except ValueError as error:
            msg = f"{text!r}: {error}"
            raise ValueError(msg) from error
    if sign not in ("=", "!="):
        msg = f"{text!r}: {name} is text, so compare by = or !=, with * and ? as wildcards"
        raise ValueError(msg)
    return Condition(name, sign, re.compile(fnmatch.translate(value)), field.show)


@dataclass(frozen=True)
class Order:
    """What ``--sort`` asks for.

    Attributes
    ----------
    name : str
        Field.
    descending : bool
        Whether the largest comes first.
    show : callable or None
        From the field's value to the text it is ordered as; None for a number.
    """

    name: str
    descending: bool
    show: Callable[[Any], str] | None

    def arranged(self, records: Iterable[Record]) -> list[Record]:
        """Return the records in this order, those without a value last."""
        known: list[Record] = []
        unknown: list[Record] = []
        for record in records:
            value = record[self.name]
            missing = value is None or value != value  # noqa: PLR0124  NaN, a time nobody knows
            (unknown if missing else known).append(record)
        return sorted(known, key=self._rank, reverse=self.descending) + unknown

    def _rank(self, record: Record) -> Any:
        value = record[self.name]
        return self.show(value) if self.show else value


def read_order(text: str, fields: Mapping[str, Field]) -> Order:
    """Read ``size`` or ``size:desc``.

    Raises
    ------
    ValueError
        If it names no field, or no direction.
    """
    name, colon, direction = text.partition(":")
    if name not in fields or direction not in (("asc", "desc") if colon else ("",)):
        msg = f"{text!r} is no order: write it as size or size:desc; there are {', '.join(fields)}"
        raise ValueError(msg)
    field = fields[name]
    return Order(name, direction == "desc", None if field.measured else field.show)


def select(
    records: Iterable[Record],
    conditions: Sequence[Condition],
    order: Order | None = None,
    limit: int | None = None,
) -> list[Record]:
    """Return the records that fulfil every condition, in order, at most `limit`."""
    found = [record for record in records if all(c.holds(record) for c in conditions)]
    return (order.arranged(found) if order else found)[:limit]
