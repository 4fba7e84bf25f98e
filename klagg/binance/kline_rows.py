"""REST klines as the exchange answers them: rows that are checked strictly. Pure.

A row that cannot be a kline costs itself alone: it is refused with the reason, and the other rows of its answer are
used.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from typing import Any, Final

from klagg.arrays import INT64_MAX
from klagg.binance.ascending import ascending_places
from klagg.decimals import checked
from klagg.errors import BadDecimal, KlaggError
from klagg.intervals import MINUTE, Interval
from klagg.kline import Values
from klagg.row_rules import kline_problem
from klagg.wire.entries import OFFICIAL_COLUMNS

KLINES_PATH: Final = "/fapi/v1/klines"
KLINE_VALUES: Final = 12
"""The documented columns of a row; the last means nothing."""


class Malformed(KlaggError):
    """The exchange's answer is not as documented."""


KlineRow = tuple[int, str, str, str, str, str, str, int, str, str]
"""A kline in the order of contract.OFFICIAL_COLUMNS."""


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """A row of an answer that cannot be a kline: its place among the rows, its open time (exchange ms; None where it
    has none that can be read), and why."""

    place: int
    open_ms: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class KlineAnswer:
    """The klines of an answer, open times ascending, and the rows that are refused, in their order."""

    rows: list[KlineRow]
    refused: list[RefusedRow]

    @property
    def count(self) -> int:
        """How many rows the answer had."""
        return len(self.rows) + len(self.refused)

    @property
    def last_ms(self) -> int | None:
        """The newest open time (exchange ms) that the answer tells, that of a refused row included."""
        opens = [*(row[0] for row in self.rows), *(each.open_ms for each in self.refused if each.open_ms is not None)]
        return max(opens, default=None)

    def reach(self, bars: Interval) -> tuple[int | None, list[RefusedRow]]:
        """The open time (exchange ms) up to which a full answer is believed, and the refused rows up to there.

        That of its newest kline, and of the refused rows that follow it bar by bar. Another key of a refused row may be
        what is wrong with it: the next call gets that row again.
        """
        if not self.rows:
            return self.last_ms, self.refused
        refused = {each.place: each for each in self.refused}
        place = max(place for place in range(self.count) if place not in refused)
        reach_ms = self.rows[-1][0]
        while (behind := refused.get(place + 1)) is not None and behind.open_ms == bars.close_time(reach_ms) + 1:
            place, reach_ms = place + 1, behind.open_ms
        return reach_ms, [each for each in self.refused if each.place <= place]

    @property
    def runs(self) -> list[tuple[bool, list[KlineRow]]]:
        """The rows in runs between refused ones, with whether a run is the first of the answer. A run may be empty."""
        places = [each.place - at for at, each in enumerate(self.refused)]
        cuts = [0, *places, len(self.rows)]
        return [(at == 0, self.rows[low:high]) for at, (low, high) in enumerate(pairwise(cuts))]


def klines_of(answer: Any, bars: Interval, from_ms: int, rows_max: int, until_ms: int = INT64_MAX) -> KlineAnswer:
    """The klines of an answer, open times ascending from `from_ms` on and below `until_ms` (exchange ms).

    A row that cannot be a kline (`klagg.row_rules`), or is not where it belongs, is refused by itself. Malformed if the
    answer is no list of rows, or if no row of it says when it opens.
    """
    if not isinstance(answer, list) or len(answer) > rows_max:
        raise Malformed(f"klines: not a list of at most {rows_max} rows: {str(answer)[:100]}")
    found = KlineAnswer([], [])
    opens = [_open_of(row, bars, from_ms, until_ms) for row in answer]
    ascending = ascending_places(opens)
    for place, row in enumerate(answer):
        open_ms = opens[place] if place in ascending else None
        if open_ms is None:
            reason = f"a {bars.name} row is malformed or out of order: {str(row)[:200]}"
        else:
            reason = _problem(row, bars)
        if reason:
            found.refused.append(RefusedRow(place, open_ms, reason))
        else:
            opened, open_, high, low, close, volume, _, quote, count, taker, taker_quote = row[: KLINE_VALUES - 1]
            found.rows.append((opened, open_, high, low, close, volume, quote, count, taker, taker_quote))
    if found.refused and found.last_ms is None:
        raise Malformed(f"klines {bars.name}: {found.refused[0].reason}")
    return found


def _open_of(row: Any, bars: Interval, least: int, until: int) -> int | None:
    """The open time of a row that has the form of a kline, on the grid and in [least, until); else None.

    What the exchange may add behind the columns that it documents changes nothing.
    """
    if not isinstance(row, list) or len(row) < KLINE_VALUES or type(row[0]) is not int:
        return None
    open_ms: int = row[0]
    return open_ms if least <= open_ms < until and bars.open_time(open_ms) == open_ms else None


def _problem(row: list[Any], bars: Interval) -> str:
    open_ms, opened, high, low, close, volume, close_ms, quote, count, taker, taker_quote = row[: KLINE_VALUES - 1]
    if type(close_ms) is not int:
        return f"close time {str(close_ms)[:40]!r} is not a whole number"
    if not all(map(is_decimal, (opened, high, low, close, volume, quote, taker, taker_quote))):
        return f"a value is not a decimal as the exchange writes them: {str(row)[:200]}"
    values = (opened, high, low, close, volume, quote, count, taker, taker_quote)
    named = dict(zip(OFFICIAL_COLUMNS[1:], values, strict=True))
    return kline_problem(named, bars=bars, open_ms=open_ms, close_ms=close_ms)


def is_decimal(value: Any) -> bool:
    """Whether a value is the text of a number as the exchange writes them."""
    if not isinstance(value, str):
        return False
    try:
        checked(value)
    except BadDecimal:
        return False
    return True


def values_of_row(row: KlineRow) -> Values:
    """The nine values of a row as numbers."""
    named = dict(zip(OFFICIAL_COLUMNS[1:], row[1:], strict=True))
    return {name: value if isinstance(value, int) else Decimal(str(value)) for name, value in named.items()}


def told_by_rest(bars: Interval) -> bool:
    """Whether the exchange has klines of this interval."""
    return bars.shortest_ms >= MINUTE.length_ms
