"""From a stream entry to a kline that the table can hold: pure."""

from __future__ import annotations

from operator import attrgetter
from typing import Final

from klagg.arrays import INT64_MAX, INT64_MIN
from klagg.errors import ContractError
from klagg.intervals import INTERVALS
from klagg.kline import INTEGER_FIELDS, Kline
from klagg.wire import klines
from klagg.wire.fields import RawFields

_WHOSE_WORD: Final = frozenset({(0, 0), (1, 0), (0, 1)})
_integers_of = attrgetter(*sorted(INTEGER_FIELDS))


def kline_of(raw: RawFields) -> Kline:
    """The kline of an entry of `klines:{n}`; ContractError says what is wrong with it.

    Beyond what `klagg.wire.klines.kline_of` checks, numbers fit 64 bits, `complete` and `official` are 0 or 1 and not
    both 1, and the interval is known; everything else is the database's to judge.
    """
    kline = klines.kline_of(raw)
    integers = _integers_of(kline)
    if max(integers) > INT64_MAX or min(integers) < INT64_MIN:
        raise ContractError("a kline entry holds a number that does not fit 64 bits")
    if (kline.complete, kline.official) not in _WHOSE_WORD:
        raise ContractError(
            f"a kline entry has complete={kline.complete} and official={kline.official}, which mean nothing together"
        )
    if kline.interval not in INTERVALS:
        raise ContractError(f"a kline entry has the unknown interval {kline.interval[:40]!r}")
    return kline
