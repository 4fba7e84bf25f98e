"""The calls that serve a request, and the entries that their answers become: pure.

A request becomes pages: they give the next call, receive its answer and return entries for the feed. Rows are checked
strictly: one malformed row spoils its whole answer, because the rest cannot be trusted either. The calls are those of
the Binance USDⓈ-M docs, "Compressed/Aggregate Trades List" (`GET /fapi/v1/aggTrades`: weight 20, at most 1,000 rows,
`fromId` inclusive) and "Kline/Candlestick Data" (`GET /fapi/v1/klines`: at most 1,500 rows, weight by `limit`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Final, Protocol

from klagg.arrays import INT64_MAX
from klagg.binance.kline_rows import KLINES_PATH, Malformed, is_decimal, klines_of
from klagg.binance.limits import AGG_TRADES_ROWS_MAX, AGG_TRADES_WEIGHT, KLINES_ROWS_MAX, klines_weight
from klagg.errors import KlaggError
from klagg.intervals import MINUTE_MS, Interval, interval
from klagg.wire.entries import (
    AGG_IDS,
    REQUEST_TRADES,
    REST_LINE,
    Request,
    TradeRow,
    official_entry,
    trades_entry_of_rows,
)
from klagg.wire.fields import Fields
from klagg.wire.findings import FindingKind, Severity, finding_entry

TRADES_PATH: Final = "/fapi/v1/aggTrades"
TRADES_PER_CALL: Final = AGG_TRADES_ROWS_MAX
TRADES_PER_ENTRY: Final = 512

BEHIND_TRIES: Final = 4
"""How often the end of a range of trades that the exchange does not show is requested again: its REST answers may be
behind its streams. Then it counts as gone."""

KLINES_PER_CALL: Final = KLINES_ROWS_MAX
KLINES_PER_ENTRY: Final = 1000

SURE_MS: Final = 2 * MINUTE_MS
"""A bar may appear in the exchange's answers seconds after its close. Up to this long (exchange ms) after the close,
only the bar that follows proves that a bar is whole, and that a missing bar does not exist."""


class NotYet(KlaggError):
    """The exchange does not show the end of the range yet: call again later."""


@dataclass(frozen=True, slots=True)
class Call:
    """A GET of `path` that costs `weight`."""

    path: str
    weight: int
    query: dict[str, str | int]


class RepairPages(Protocol):
    """The calls that serve a job, one after the other. Times are exchange ms.

    Call `call`, then give its answer to `receive`, until `call` returns None.
    """

    trades: int
    klines: int
    missing: int
    """Counters: what went out, and how much of it the exchange did not have."""
    gone: list[tuple[int, int]]
    """Ids that the exchange no longer has, as ranges (both ends included)."""

    def call(self, now_ms: int) -> Call | None:
        """The next call; None when everything is served."""

    def receive(self, answer: Any, now_ms: int) -> list[Fields]:
        """The entries of the decoded answer to the last call. Malformed or NotYet if it cannot be used; then `call`
        returns a call for the same range again."""


def closed_ms(request: Request) -> int:
    """The exchange time (ms) from which on all klines of a request are closed; 0 for trades, which are there at once.

    UnknownInterval if the request names none.
    """
    if request.kind == REQUEST_TRADES:
        return 0
    bars = interval(request.interval)
    return bars.close_time(bars.open_time(request.last - 1)) + 1


@dataclass(slots=True)
class TradePages:
    """aggTrades of a symbol with the ids `first` to `last` (both included), at most 1,000 a call."""

    symbol: str
    first: int
    last: int
    trades: int = 0
    klines: int = 0
    missing: int = 0
    gone: list[tuple[int, int]] = field(default_factory=list)
    _next: int = field(init=False)
    _behind: int = 0
    """How often an answer showed nothing of the end of the range."""

    def __post_init__(self) -> None:
        self._next = self.first

    def call(self, now_ms: int) -> Call | None:
        """As `RepairPages`."""
        if self._next > self.last:
            return None
        limit = min(TRADES_PER_CALL, self.last - self._next + 1)
        return Call(TRADES_PATH, AGG_TRADES_WEIGHT, {"symbol": self.symbol, "fromId": self._next, "limit": limit})

    def receive(self, answer: Any, now_ms: int) -> list[Fields]:
        """As `RepairPages`. Ids that the exchange leaves out count as missing: it no longer has them. NotYet while it
        shows nothing at the end of the range."""
        rows_max = min(TRADES_PER_CALL, self.last - self._next + 1)
        rows = trades_of(answer, self.symbol, self._next, rows_max)
        if not rows and self._behind < BEHIND_TRIES:
            self._behind += 1
            raise NotYet(f"the exchange shows no trade of {self.symbol} from {self._next} on yet")
        rows_inside = [row for row in rows if row.id <= self.last]
        covered = min(rows[-1].id, self.last) if rows else self.last
        self._note_gone([row.id for row in rows_inside], covered)
        self.trades += len(rows_inside)
        self._next = covered + 1
        return [
            trades_entry_of_rows(rows_inside[at : at + TRADES_PER_ENTRY], line=REST_LINE, ids=AGG_IDS, recv_ms=now_ms)
            for at in range(0, len(rows_inside), TRADES_PER_ENTRY)
        ]

    def _note_gone(self, found: Sequence[int], covered: int) -> None:
        """Note what is not in an answer that reaches from the next id up to `covered`; bounded by the answer's rows."""
        for left, right in pairwise([self._next - 1, *found, covered + 1]):
            if right - left > 1:
                self.missing += right - left - 1
                self.gone.append((left + 1, right - 1))


@dataclass(slots=True)
class KlinePages:
    """Closed klines with open times in [first, last) of a request, at most 1,500 a call."""

    request: Request
    trades: int = 0
    klines: int = 0
    missing: int = 0
    gone: list[tuple[int, int]] = field(default_factory=list)
    _bars: Interval = field(init=False)
    _next: int = field(init=False)
    _limit: int = 0
    _proving: bool = False
    """Whether the last call also requests the bar behind the range."""

    def __post_init__(self) -> None:
        self._bars = interval(self.request.interval)
        self._next = self.request.first

    def call(self, now_ms: int) -> Call | None:
        """As `RepairPages`."""
        request, bars = self.request, self._bars
        if self._next >= request.last:
            return None
        closed = closed_ms(request)
        rows = max(1, bars.bucket_of(request.last - 1) - bars.bucket_of(self._next - 1))
        recent = now_ms < closed + SURE_MS
        self._proving = recent and rows < KLINES_PER_CALL
        # A page that just reached the end without proof would be requested again.
        self._limit = rows + 1 if self._proving else min(rows, KLINES_PER_CALL - recent)
        return Call(
            KLINES_PATH,
            klines_weight(self._limit),
            {
                "symbol": request.symbol,
                "interval": request.interval,
                "startTime": self._next,
                "endTime": closed if self._proving else request.last - 1,
                "limit": self._limit,
            },
        )

    def receive(self, answer: Any, now_ms: int) -> list[Fields]:
        """As `RepairPages`; NotYet while the exchange may still lack a bar at the end of the range."""
        request, bars = self.request, self._bars
        rows = klines_of(answer, bars, self._next, self._limit)
        inside = [row for row in rows if row[0] < request.last]
        full = len(inside) == len(rows) == self._limit
        to_ms = bars.close_time(inside[-1][0]) + 1 if full else request.last
        if to_ms >= request.last:
            to_ms = request.last
            if self._proving and len(inside) == len(rows):
                raise NotYet(f"the exchange shows no {bars.name} kline of {request.symbol} behind {request.last} yet")
        entries = []
        for at in range(0, max(len(inside), 1), KLINES_PER_ENTRY):
            part = inside[at : at + KLINES_PER_ENTRY]
            more = at + KLINES_PER_ENTRY < len(inside)
            until_ms = inside[at + KLINES_PER_ENTRY][0] if more else to_ms
            entries.append(official_entry(request.symbol, bars.name, self._next, until_ms, part, request.id))
            self._next = until_ms
        self.klines += len(inside)
        return entries


def trades_of(answer: Any, symbol: str, from_id: int, rows_max: int) -> list[TradeRow]:
    """The aggTrades of a decoded answer, ids ascending from `from_id` on; Malformed if anything is not as
    documented."""
    if not isinstance(answer, list) or len(answer) > rows_max:
        raise Malformed(f"aggTrades of {symbol}: not a list of at most {rows_max} rows: {str(answer)[:100]}")
    found: list[TradeRow] = []
    least = from_id
    for row in answer:
        trade = _trade_of(row, symbol)
        if trade is None or trade.id < least:
            raise Malformed(f"aggTrades of {symbol}: a row is malformed or out of order: {str(row)[:200]}")
        least = trade.id + 1
        found.append(trade)
    return found


def _trade_of(row: Any, symbol: str) -> TradeRow | None:
    if not isinstance(row, dict):
        return None
    values: list[Any] = [row.get(name) for name in "apqflTm"]
    trade_id, price, qty, first, last, time_ms, maker = values
    numbers = all(type(each) is int and 0 <= each <= INT64_MAX for each in (trade_id, first, last, time_ms))
    if not numbers or type(maker) is not bool or first > last or not (is_decimal(price) and is_decimal(qty)):
        return None
    if not price.strip("0."):
        return None  # it would be the low of its bar
    return TradeRow(symbol, trade_id, price, qty, first, last, time_ms, maker)


def union_of(ranges: Sequence[tuple[int, int]], around: tuple[int, int]) -> tuple[int, int]:
    """The range (both ends included) that `around` grows to with all `ranges` that overlap it or touch it, in turn."""
    first, last = around
    for low, high in sorted(ranges):
        if low <= last + 1 and high >= first:
            last = max(last, high)
    for low, high in sorted(ranges, key=lambda each: -each[1]):
        if high >= first - 1 and low <= last:
            first = min(first, low)
    return first, last


def given_up_finding(request: Request, reason: str, time_ms: int) -> Fields:
    """The UNREPAIRED finding that the exchange will never answer this request; `time_ms` is exchange ms."""
    evidence = f"the request {request.id} for {_requested(request)} is given up: {reason}"
    return finding_entry(FindingKind.UNREPAIRED, Severity.ERROR, evidence, symbol=request.symbol, time_ms=time_ms)


def gone_finding(request: Request, ids: Sequence[tuple[int, int]], time_ms: int) -> Fields:
    """The UNREPAIRED finding that the exchange answered and lacks these ids (ranges, both ends included); `time_ms` is
    exchange ms."""
    count = sum(last - first + 1 for first, last in ids)
    named = ", ".join(_span(first, last) for first, last in ids)
    evidence = f"the exchange no longer has {count} trades: ids {named}"
    return finding_entry(FindingKind.UNREPAIRED, Severity.WARNING, evidence, symbol=request.symbol, time_ms=time_ms)


def _requested(request: Request) -> str:
    if request.kind == REQUEST_TRADES:
        return f"the trades with the ids {_span(request.first, request.last)}"
    first, last = (
        f"{datetime.fromtimestamp(each / 1000, UTC):%Y-%m-%d %H:%M}" for each in (request.first, request.last)
    )
    return f"the {request.interval} klines that open from {first} until before {last} (UTC)"


def _span(first: int, last: int) -> str:
    return f"{first}" if first == last else f"{first} to {last}"
