"""What `replay` and `rollup` share: comparing bar by bar, printing what differs, and the summary."""

from __future__ import annotations

import sys
from decimal import Decimal, InvalidOperation
from typing import Final

import ujson

from klagg.errors import BadDecimal
from klagg.kline import DECIMAL_FIELDS, NINE_VALUES, Kline, Values, differences
from klagg.recordings import OfficialKline, RefusedRow

REFUSED_SHOWN: Final = 20


def number(text: str) -> Decimal:
    """A decimal text as a number; BadDecimal if it is none."""
    try:
        return Decimal(text)
    except InvalidOperation:
        raise BadDecimal(text, "not a number") from None


def values_of_kline(kline: Kline) -> Values:
    """The nine values of one of our klines."""
    decimals = {name: number(getattr(kline, name)) for name in DECIMAL_FIELDS}
    return {**decimals, "trades": kline.trades}


def values_of_official(row: OfficialKline) -> Values:
    """The nine values of an official row, None where its file has no such column."""
    values = {name: getattr(row, name) for name in NINE_VALUES}
    return {name: number(value) if isinstance(value, str) else value for name, value in values.items()}


class RefusedRows:
    """Rows of recordings that cannot be what they should: the first are named on standard error, all are counted.

    `uncounted` counts trades that count in no kline: of quantity 0, struck out, of a kind that klines leave out.
    """

    def __init__(self, command: str) -> None:
        self._command = command
        self.count = self.uncounted = 0

    def __call__(self, row: RefusedRow) -> None:
        """Refuse a row."""
        self.count += 1
        if self.count <= REFUSED_SHOWN:
            print(f"klagg {self._command}: refused: {row}", file=sys.stderr)
        elif self.count == REFUSED_SHOWN + 1:
            print(f"klagg {self._command}: more rows are refused; the summary counts them", file=sys.stderr)

    def summary(self) -> dict[str, int]:
        """What a summary says of them: nothing where there are none."""
        counts = {"refused": self.count, "uncounted": self.uncounted}
        return {name: count for name, count in counts.items() if count}


class ComparisonReport:
    """Counts and prints. A bar is exact if all values that both sides have are equal; else partial if its source does
    not fully cover it, else different. A bar without an official row counts as a bar alone."""

    def __init__(self, as_json: bool, *, float_sums: bool = False) -> None:
        self._json = as_json
        self._float_sums = float_sums
        self.counts = {"bars": 0, "exact": 0, "different": 0, "partial": 0}

    def add(self, symbol: str, open_time: int, ours: Values | None, theirs: Values | None, *, whole: bool) -> None:
        """One bar: ours (None: we have none), the exchange's (None: its file has none)."""
        self.counts["bars"] += 1
        found = []
        if ours is None:
            verdict, fields = "different", ["there is no such bar"]
        elif theirs is None:
            verdict, fields = "partial" if not whole else "unmatched", []
        else:
            found = differences(ours, theirs, float_sums=self._float_sums)
            fields = [f"{each.name} {each.ours} instead of {each.theirs}" for each in found]
            verdict = "exact" if not found else "different" if whole else "partial"
        if verdict in self.counts:
            self.counts[verdict] += 1
        if self._json:
            print(ujson.dumps({"symbol": symbol, "open_time": open_time, "verdict": verdict, "fields": fields}))
        elif verdict != "exact":
            print(f"{symbol} {open_time} {verdict}{': ' if fields else ''}{'; '.join(fields)}")

    def conclude(self, refused: RefusedRows) -> int:
        """The summary as the last line; the exit code."""
        print(ujson.dumps({**self.counts, **refused.summary()}))
        return 1 if self.counts["different"] or refused.count else 0
