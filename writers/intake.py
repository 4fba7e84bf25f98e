"""From a stream entry to a kline that the table can hold: pure."""

from __future__ import annotations

import re
from operator import attrgetter
from typing import Final

from klagg.contract import RawFields, check_version, texts_of
from klagg.errors import ContractError
from klagg.intervals import INTERVALS
from klagg.kline import DECIMAL_FIELDS, INTEGER_FIELDS, Kline

INTEGER_LIMIT: Final = 2**63

# NUMERIC takes far more, but also `NaN`, `Infinity`, `1e9` and blanks, none of which is a price.
_DECIMAL: Final = r"[0-9]{1,38}(?:\.[0-9]{1,38})?"
_DECIMALS = re.compile(",".join([_DECIMAL] * len(DECIMAL_FIELDS)), re.ASCII)
_decimals_of = attrgetter(*DECIMAL_FIELDS)
_integers_of = attrgetter(*sorted(INTEGER_FIELDS))


def kline_of(raw: RawFields) -> Kline:
    """The kline of an entry of `klines:{n}`; ContractError says what is wrong with it.

    Values are non-negative plain decimals of any scale, numbers fit 64 bits, `complete` is 0 or 1 and the interval is
    known; everything else is the database's to judge.
    """
    check_version(raw)
    kline = Kline.from_fields(texts_of(raw))
    if not _DECIMALS.fullmatch(",".join(_decimals_of(kline))):
        raise ContractError(f"a kline entry holds a value that is not a plain decimal: {_first_bad(kline)}")
    integers = _integers_of(kline)
    if max(integers) >= INTEGER_LIMIT or min(integers) < -INTEGER_LIMIT:
        raise ContractError("a kline entry holds a number that does not fit 64 bits")
    if kline.complete not in (0, 1):
        raise ContractError(f"a kline entry has complete={kline.complete}, which is neither 0 nor 1")
    if kline.interval not in INTERVALS:
        raise ContractError(f"a kline entry has the unknown interval {kline.interval[:40]!r}")
    return kline


def _first_bad(kline: Kline) -> str:
    """The first value that is no decimal, with its name."""
    values = zip(DECIMAL_FIELDS, _decimals_of(kline), strict=True)
    return next(f"{name}={text[:40]!r}" for name, text in values if not re.fullmatch(_DECIMAL, text, re.ASCII))
