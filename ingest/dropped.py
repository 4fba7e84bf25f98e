"""Which trades were dropped before they reached the feed: exact ids by symbol, in ranges. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from klagg.wire.fields import Fields
from klagg.wire.findings import FindingKind, Severity, finding_entry

RANGES_MAX: Final = 50
"""Ranges that are kept for one symbol. Beyond it the two nearest become one, which then also spans ids that were not
dropped; the count stays exact."""

LOGGED_MAX: Final = 10
"""Symbols that the sentence in the log names. There is a finding for each symbol."""


@dataclass(slots=True)
class Ranges:
    """Ids of one symbol as [first, last] ranges (both ends included), ascending and apart.

    `count` is how many ids; `first_ms` and `last_ms` are the exchange times (ms) between which they lie. `exact`: no
    range spans an id that was not dropped.
    """

    spans: list[tuple[int, int]] = field(default_factory=list)
    count: int = 0
    first_ms: int = 0
    last_ms: int = 0
    exact: bool = True

    def add(self, trade_id: int, time_ms: int) -> None:
        """Add an id and the exchange time (ms) of its trade. An id that is here already changes nothing."""
        at = bisect_left(self.spans, (trade_id + 1, 0))
        if at and self.spans[at - 1][1] >= trade_id:
            return
        first = last = trade_id
        if at < len(self.spans) and self.spans[at][0] == trade_id + 1:
            last = self.spans.pop(at)[1]
        if at and self.spans[at - 1][1] == trade_id - 1:
            at -= 1
            first = self.spans.pop(at)[0]
        self.spans.insert(at, (first, last))
        self.first_ms = min(self.first_ms, time_ms) if self.count else time_ms
        self.last_ms = max(self.last_ms, time_ms)
        self.count += 1
        if len(self.spans) > RANGES_MAX:
            self._join_nearest()

    def _join_nearest(self) -> None:
        gaps = [right[0] - left[1] for left, right in zip(self.spans, self.spans[1:], strict=False)]
        at = gaps.index(min(gaps))
        self.spans[at : at + 2] = [(self.spans[at][0], self.spans[at + 1][1])]
        self.exact = False

    def __str__(self) -> str:
        spans = ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in self.spans)
        return f"ids {'' if self.exact else 'within '}{spans}"


class Dropped:
    """What was dropped of one feed since the last report."""

    def __init__(self) -> None:
        self.symbols: dict[str, Ranges] = {}

    def __bool__(self) -> bool:
        return bool(self.symbols)

    def add(self, entry: Fields) -> dict[str, int]:
        """Add a `trades` entry that is not written; how many trades of each symbol it holds."""
        counts: dict[str, int] = {}
        rows = zip(entry["symbol"].split(","), entry["id"].split(","), entry["time"].split(","), strict=True)
        for symbol, trade_id, time_ms in rows:
            self.symbols.setdefault(symbol, Ranges()).add(int(trade_id), int(time_ms))
            counts[symbol] = counts.get(symbol, 0) + 1
        return counts

    def findings(self, writer: str, reason: str, time_ms: int) -> list[Fields]:
        """One INGEST_DROPPED finding for each symbol, with its ids and their exchange times; `time_ms` (exchange ms) is
        the time of the findings."""
        return [
            finding_entry(
                FindingKind.INGEST_DROPPED,
                Severity.WARNING,
                f"{writer} dropped {ranges.count} trades before they were in the feed, {ranges}, of {ranges.first_ms} "
                f"to {ranges.last_ms} ms: {reason}",
                symbol=symbol,
                time_ms=time_ms,
            )
            for symbol, ranges in sorted(self.symbols.items())
        ]


def sentence_of(dropped: Iterable[Dropped], reason: str) -> str:
    """One sentence for the log about several feeds; it names at most LOGGED_MAX symbols."""
    symbols = {symbol: ranges for each in dropped for symbol, ranges in sorted(each.symbols.items())}
    named = "; ".join(f"{symbol} {ranges}" for symbol, ranges in list(symbols.items())[:LOGGED_MAX])
    more = f"; and {len(symbols) - LOGGED_MAX} more symbols" if len(symbols) > LOGGED_MAX else ""
    trades = sum(each.count for each in symbols.values())
    return (
        f"{trades} trades of {len(symbols)} symbols were dropped before they reached the feed ({reason}): {named}{more}"
    )
