"""Decimals as integers: a text at a scale is an int64 mantissa, and back. No float ever touches a price.

Scalars serve the edges; `parse_column` serves the aggregator, where a column of thousands of texts becomes one array.
"""

from __future__ import annotations

import re
from typing import Final

import numpy as np
import numpy.typing as npt

from klagg.arrays import Ints
from klagg.errors import BadDecimal, ContractError

DIGITS_MAX: Final = 18
"""The most digits a decimal may have: 10^18 − 1 is below 2^63."""

POWERS: Final[Ints] = 10 ** np.arange(DIGITS_MAX + 1, dtype=np.int64)
"""Powers of ten that fit int64."""

DECIMAL: Final = r"[0-9]{1,18}(?:\.[0-9]{1,17})?"
_DECIMAL = re.compile(DECIMAL + r"\Z", re.ASCII)
_SIGNED_COLUMN = re.compile(rb"-?[0-9]+(?:,-?[0-9]+)*")
_ZERO, _COMMA, _DOT = ord("0"), ord(","), ord(".")
_INT64 = np.iinfo(np.int64)


def checked(text: str) -> str:
    """`text` itself, if it is a plain non-negative decimal of at most 18 digits; else BadDecimal says why not."""
    if not _DECIMAL.match(text):
        raise BadDecimal(text, "negative" if text.startswith("-") else "not a plain decimal number")
    if len(text) - ("." in text) > DIGITS_MAX:
        raise BadDecimal(text, f"more than {DIGITS_MAX} digits")
    return text


def decimals_of(text: str) -> int:
    """How many decimals `text` needs: trailing zeros do not count."""
    _, _, fraction = checked(text).partition(".")
    return len(fraction.rstrip("0"))


def to_mantissa(text: str, scale: int) -> int:
    """`text` × 10^scale as an exact integer; BadDecimal if it needs more decimals than `scale`."""
    whole, _, fraction = checked(text).partition(".")
    fraction = fraction.rstrip("0")
    if len(fraction) > scale:
        raise BadDecimal(text, f"more than {scale} decimals")
    return int(whole + fraction.ljust(scale, "0"))


def to_text(mantissa: int, scale: int) -> str:
    """The decimal text of `mantissa` × 10^−scale with exactly `scale` decimals, as Binance prints it."""
    if scale == 0:
        return str(mantissa)
    sign, digits = ("-", str(-mantissa)) if mantissa < 0 else ("", str(mantissa))
    digits = digits.rjust(scale + 1, "0")
    return f"{sign}{digits[:-scale]}.{digits[-scale:]}"


def _count_digits(raw: npt.NDArray[np.uint8]) -> int:
    return int(np.count_nonzero(raw - np.uint8(_ZERO) <= 9))  # what is below a zero wraps around


def parse_integers(text: bytes, count: int) -> Ints:
    """A comma-separated column of `count` integers; ContractError if it is anything else, or does not fit int64."""
    raw = np.frombuffer(text, np.uint8)
    commas = int(np.count_nonzero(raw == _COMMA))
    if count == 0 or commas != count - 1:
        raise ContractError(f"a column holds {commas + 1} values instead of {count}")
    # numpy also takes blanks, signs without digits and `+`, and cuts what does not fit to the nearest int64.
    if _count_digits(raw) + commas != len(text) and not _SIGNED_COLUMN.fullmatch(text):
        raise ContractError(f"not a column of integers: {text[:60]!r}")
    try:
        values: Ints = np.fromstring(text, dtype=np.int64, sep=",")
    except ValueError:
        raise ContractError(f"not a column of integers: {text[:60]!r}") from None
    if len(values) != count:
        raise ContractError(f"not a column of integers: {text[:60]!r}")
    if (values.max() == _INT64.max or values.min() == _INT64.min) and values.tolist() != _exactly(text):
        raise ContractError(f"a column holds an integer that does not fit 64 bits: {text[:60]!r}")
    return values


def _exactly(text: bytes) -> list[int]:
    """A checked column of integers, of any size."""
    return [int(each) for each in text.split(b",")]


def parse_column(text: bytes, count: int) -> tuple[Ints, Ints]:
    """A comma-separated column of `count` decimals as (mantissas, decimals): value = mantissa × 10^−decimals.

    Exact: the dots are removed and the digits read as integers; each value's decimals are counted from the places of
    its dot and comma. ContractError for anything that is not a column of non-negative decimals of ≤ 18 digits.
    """
    raw = np.frombuffer(text, dtype=np.uint8)
    ends = np.append(np.flatnonzero(raw == _COMMA), len(raw))
    if len(ends) != count:
        raise ContractError(f"a column holds {len(ends)} values instead of {count}")
    dots = np.flatnonzero(raw == _DOT)
    if _count_digits(raw) + len(dots) + count - 1 != len(raw):
        raise ContractError(f"not a column of plain decimals: {text[:60]!r}")
    lengths = np.diff(ends, prepend=-1) - 1
    if len(dots) == count and (dots < ends).all() and (dots[1:] > ends[:-1]).all():
        decimals = ends - dots - 1  # every value has its dot
        lengths -= 1
        whole, fractions = lengths - decimals, decimals
    else:
        owners = np.searchsorted(ends, dots)
        if len(owners) > 1 and (owners[1:] == owners[:-1]).any():
            raise ContractError(f"two dots in one decimal: {text[:60]!r}")
        decimals = np.zeros(count, dtype=np.int64)
        decimals[owners] = fractions = ends[owners] - dots - 1
        lengths[owners] -= 1
        whole = lengths[owners] - fractions
    if min(whole.min(initial=1), fractions.min(initial=1)) < 1:
        raise ContractError(f"a dot without a digit on either side: {text[:60]!r}")
    if lengths.max() > DIGITS_MAX or lengths.min() < 1:
        raise ContractError(f"a decimal with no digits or more than {DIGITS_MAX}: {text[:60]!r}")
    return parse_integers(text.translate(None, b"."), count), decimals
