"""Checks single values of a recording; every failure is a BadValue whose text is a clause for RecordingError."""

from __future__ import annotations

import csv
import re
from datetime import UTC, datetime

_PLAIN_DECIMAL = re.compile(r"-?[0-9]{1,30}(?:\.[0-9]{1,30})?")
_ANY_DECIMAL = re.compile(r"-?[0-9]{1,30}(?:\.[0-9]{1,30})?(?:[eE][-+]?[0-9]{1,2})?")
_INTEGER = re.compile(r"-?[0-9]{1,20}")
_INTEGER_OF_FLOAT = re.compile(r"[0-9]{1,15}\.0+")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_TRUE = frozenset({"true", "True", "TRUE", "1"})
_FALSE = frozenset({"false", "False", "FALSE", "0"})
_YEAR_2200_MS = 7_258_118_400_000


class BadValue(ValueError):
    """A value of a recording is missing or not what its place demands."""


def is_text(line: str) -> bool:
    """Whether all bytes of a line, read by klagg.recordings.files, were UTF-8."""
    return line.isascii() or _LONE_SURROGATE.search(line) is None


def symbol_text(value: object) -> str:
    """`value` if it can be a symbol; these may be of any script."""
    if not isinstance(value, str) or not value:
        raise BadValue("the field 's' is missing")
    if not value.isprintable():
        raise BadValue(f"symbol {value!r} is no symbol")
    return value


def cells(line: str) -> list[str]:
    """The values of a line of a table; none of a line that is empty."""
    if not is_text(line):
        raise BadValue("the row is not UTF-8 text")
    try:
        return next(csv.reader((line,)), [])
    except csv.Error as error:
        raise BadValue(f"the row cannot be read ({error})") from error


def decimal_text(name: str, value: object) -> str:
    """`value` if it is a decimal ≥ 0 in plain notation, as the exchange writes prices and quantities."""
    if type(value) is int:
        value = str(value)
    if not isinstance(value, str) or not _PLAIN_DECIMAL.fullmatch(value):
        raise BadValue(f"{name} {value!r} is not a decimal")
    if value[0] == "-":
        raise BadValue(f"{name} {value!r} is negative")
    return value


def kline_decimal_text(name: str, value: object) -> str:
    """`value` if it is a decimal ≥ 0; an exponent is allowed, for tables that passed through float columns."""
    if type(value) is int:
        value = str(value)
    if not isinstance(value, str) or not _ANY_DECIMAL.fullmatch(value):
        raise BadValue(f"{name} {value!r} is not a decimal")
    if value[0] == "-":
        raise BadValue(f"{name} {value!r} is negative")
    return value


def integer(name: str, value: object) -> int:
    """`value` as an int, from a JSON integer or a CSV text."""
    if type(value) is int:
        return value
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        return int(value)
    raise BadValue(f"{name} {value!r} is not a whole number")


def whole_number(name: str, value: object) -> int:
    """`value` as an int, also where a table that passed through float columns has it as `180.0`."""
    if isinstance(value, str) and _INTEGER_OF_FLOAT.fullmatch(value):
        value = value.partition(".")[0]
    return integer(name, value)


def boolean(name: str, value: object) -> bool:
    """`value` as a bool, from a JSON boolean or a CSV text."""
    if value is True or value is False:
        return value
    if isinstance(value, str):
        if value in _TRUE:
            return True
        if value in _FALSE:
            return False
    raise BadValue(f"{name} {value!r} is neither true nor false")


def epoch_ms(name: str, value: object) -> int:
    """A time given in ms, µs or ns since 1970, floored to ms; the unit follows from its size."""
    number = integer(name, value)
    if number >= 10**17:
        number //= 1_000_000
    elif number >= 10**14:
        number //= 1_000
    if not 10**11 <= number < _YEAR_2200_MS:
        raise BadValue(f"{name} {value!r} is not a plausible time")
    return number


def received_ms(text: str) -> int:
    """The receive time before a captured line (s, ms, µs or ns since 1970, maybe with a fraction) in ms, floored."""
    whole, _, fraction = text.partition(".")
    if len(whole) <= 11:
        return int(whole) * 1000 + int((fraction + "000")[:3])
    if len(whole) <= 14:
        return int(whole)
    return int(whole) // (1_000 if len(whole) <= 17 else 1_000_000)


def open_time_ms(value: object) -> int:
    """A kline's open time in ms: a number as in `epoch_ms`, or an ISO date or date-time (UTC unless it says else)."""
    if type(value) is int or (isinstance(value, str) and _INTEGER.fullmatch(value)):
        return epoch_ms("open time", value)
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        raise BadValue(f"open time {value!r} is not a time") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return epoch_ms("open time", round(moment.timestamp() * 1000))
