"""The calls that serve a request, and the entries that their answers become: pure.

A request becomes pages: they give the next call, receive its answer and return entries for the feed. Rows are checked
strictly, each by itself (`klagg.row_rules`): one that cannot be costs neither the rest of its answer nor the request,
and is told. The calls are those of
the Binance USDⓈ-M docs, "Compressed/Aggregate Trades List" (`GET /fapi/v1/aggTrades`: weight 20, at most 1,000 rows,
`fromId` inclusive) and "Kline/Candlestick Data" (`GET /fapi/v1/klines`: at most 1,500 rows, weight by `limit`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Final, Protocol

from klagg.arrays import INT64_MAX
from klagg.binance.ascending import ascending_places
from klagg.binance.kline_rows import KLINES_PATH, KlineRow, Malformed, RefusedRow, klines_of
from klagg.binance.limits import AGG_TRADES_ROWS_MAX, AGG_TRADES_WEIGHT, KLINES_ROWS_MAX, klines_weight
from klagg.errors import KlaggError
from klagg.intervals import MINUTE_MS, Interval, interval
from klagg.row_rules import trade_counts, trade_problem, without_residue
from klagg.wire.entries import (
    AGG_IDS,
    BY_ANSWER,
    REQUEST_KLINES,
    REST_LINE,
    Request,
    TradeRow,
    Witness,
    official_entry,
    trades_entry_of_rows,
    witness_entries,
)
from klagg.wire.fields import Fields
from klagg.wire.findings import FindingKind, Severity, finding_entry

TRADES_PATH: Final = "/fapi/v1/aggTrades"
TRADES_PER_CALL: Final = AGG_TRADES_ROWS_MAX
TRADES_PER_ENTRY: Final = 512

BEHIND_TRIES: Final = 4
"""How often the end of a range of trades that the exchange does not show is requested again: its REST answers may be
behind its streams. Then it counts as gone."""

PAGES_BEHIND: Final = 5
"""Pages of one request for what is behind an id. What is behind them is a gap as soon as the symbol trades."""

KLINES_PER_CALL: Final = KLINES_ROWS_MAX
KLINES_PER_ENTRY: Final = 1000

NO_ROW: Final = -1

REFUSED_SHOWN: Final = 5
"""How many refused rows a finding shows; it counts the others."""

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
    refused: list[str]
    """Rows that cannot be what they should, each with the reason."""

    def call(self, now_ms: int) -> Call | None:
        """The next call; None when everything is served."""

    def receive(self, answer: Any, now_ms: int) -> list[Fields]:
        """The entries of the decoded answer to the last call. Malformed or NotYet if it cannot be used; then `call`
        returns a call for the same range again."""


def closed_ms(request: Request) -> int:
    """The exchange time (ms) from which on all klines of a request are closed; 0 for trades, which are there at once.

    UnknownInterval if the request names none.
    """
    if request.kind != REQUEST_KLINES:
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
    refused: list[str] = field(default_factory=list)
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
        found = trades_of(answer, self.symbol, self._next, rows_max)
        if found.newest == NO_ROW and self._behind < BEHIND_TRIES:
            self._behind += 1
            raise NotYet(f"the exchange shows no trade of {self.symbol} from {self._next} on yet")
        rows_inside = [row for row in found.rows if row.id <= self.last]
        covered = min(found.newest, self.last) if found.newest != NO_ROW else self.last
        self._note_gone([row.id for row in rows_inside], [each.between for each in found.refused], covered)
        self.trades += len(rows_inside)
        self.refused += [f"aggTrade {each.said}" for each in found.refused]
        self._next = covered + 1
        return [
            trades_entry_of_rows(rows_inside[at : at + TRADES_PER_ENTRY], line=REST_LINE, ids=AGG_IDS, recv_ms=now_ms)
            for at in range(0, len(rows_inside), TRADES_PER_ENTRY)
        ]

    def _note_gone(self, found: Sequence[int], refused: Sequence[tuple[int, int]], covered: int) -> None:
        """Note what is not in an answer that reaches from the next id up to `covered`; bounded by the answer's rows.

        Ids are not gone where a row was refused (`refused`, ranges with both ends): the exchange has them."""
        for left, right in pairwise([self._next - 1, *found, covered + 1]):
            if right - left > 1 and not any(low < right and high > left for low, high in refused):
                self.missing += right - left - 1
                self.gone.append((left + 1, right - 1))


@dataclass(slots=True)
class BehindPages:
    """aggTrades of a symbol from the id `first` on, as many as there are, at most PAGES_BEHIND pages.

    Whatever comes is repair. When the exchange has no more, a witness says so: nothing is missing then, because an id
    that does not exist yet cannot be gone.
    """

    symbol: str
    first: int
    trades: int = 0
    klines: int = 0
    missing: int = 0
    gone: list[tuple[int, int]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    _next: int = field(init=False)
    _pages: int = 0
    _called_ms: int = 0

    def __post_init__(self) -> None:
        self._next = self.first

    def call(self, now_ms: int) -> Call | None:
        """As `RepairPages`."""
        if self._pages == PAGES_BEHIND:
            return None
        self._called_ms = now_ms
        query: dict[str, str | int] = {"symbol": self.symbol, "fromId": self._next, "limit": TRADES_PER_CALL}
        return Call(TRADES_PATH, AGG_TRADES_WEIGHT, query)

    def receive(self, answer: Any, now_ms: int) -> list[Fields]:
        """As `RepairPages`. The witness has the time of its call, because what came later need not be in the answer,
        and says nothing where ids of the answer are not contiguous or a row was refused."""
        found = trades_of(answer, self.symbol, self._next, TRADES_PER_CALL)
        rows, first = found.rows, self._next
        self._pages += 1
        self.trades += len(rows)
        self.refused += [f"aggTrade {each.said}" for each in found.refused]
        entries = [
            trades_entry_of_rows(rows[at : at + TRADES_PER_ENTRY], line=REST_LINE, ids=AGG_IDS, recv_ms=now_ms)
            for at in range(0, len(rows), TRADES_PER_ENTRY)
        ]
        if found.newest != NO_ROW:
            self._next = found.newest + 1
        if len(answer) < TRADES_PER_CALL:
            self._pages = PAGES_BEHIND
            if not found.refused and self._next - first == len(rows):
                last = Witness(self.symbol, self._next - 1, self._called_ms)
                entries += witness_entries([last], ids=AGG_IDS, source=BY_ANSWER)
        return entries


@dataclass(slots=True)
class KlinePages:
    """Closed klines with open times in [first, last) of a request, at most 1,500 a call."""

    request: Request
    trades: int = 0
    klines: int = 0
    missing: int = 0
    gone: list[tuple[int, int]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
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
        found = klines_of(answer, bars, self._next, self._limit, bars.close_time(request.last) + 1)
        reach_ms, refused = found.reach(bars)
        beyond = reach_ms is not None and reach_ms >= request.last
        to_ms = request.last
        if found.count == self._limit and reach_ms is not None and not beyond:
            to_ms = min(request.last, bars.close_time(reach_ms) + 1)
        if to_ms == request.last and self._proving and not beyond:
            raise NotYet(f"the exchange shows no {bars.name} kline of {request.symbol} behind {request.last} yet")
        self.refused += [_told(each, bars) for each in (refused if to_ms < request.last else found.refused)]
        entries = []
        refused_ms = [each.open_ms for each in found.refused]
        for (first, run), end_ms in zip(found.runs, [*refused_ms, to_ms], strict=True):
            inside = [row for row in run if row[0] < request.last]
            # What lies between a row that was refused and the next one is not known to be nothing.
            from_ms = self._next if first else inside[0][0] if inside else end_ms
            until_ms = end_ms if end_ms is not None else bars.close_time(inside[-1][0]) + 1 if inside else from_ms
            if from_ms is not None and until_ms is not None and from_ms < min(until_ms, to_ms):
                entries += self._entries(from_ms, min(until_ms, to_ms), inside)
                self.klines += len(inside)
        self._next = to_ms
        return entries

    def _entries(self, from_ms: int, to_ms: int, rows: Sequence[KlineRow]) -> list[Fields]:
        """The entries of rows that open in [from, to), in which the exchange has no other rows."""
        entries = []
        for at in range(0, max(len(rows), 1), KLINES_PER_ENTRY):
            more = at + KLINES_PER_ENTRY < len(rows)
            until_ms = rows[at + KLINES_PER_ENTRY][0] if more else to_ms
            part = rows[at : at + KLINES_PER_ENTRY]
            entries.append(
                official_entry(self.request.symbol, self._bars.name, from_ms, until_ms, part, self.request.id)
            )
            from_ms = until_ms
        return entries


def _told(refused: RefusedRow, bars: Interval) -> str:
    if refused.open_ms is None:
        return refused.reason
    opened = datetime.fromtimestamp(refused.open_ms / 1000, UTC)
    return f"the {bars.name} kline of {opened:%Y-%m-%d %H:%M}: {refused.reason}"


@dataclass(frozen=True, slots=True)
class RefusedTrade:
    """A row that cannot be an aggTrade: what is said of it, and between which ids (both included) it stands."""

    said: str
    between: tuple[int, int]


@dataclass(frozen=True, slots=True)
class TradeAnswer:
    """The aggTrades of an answer, ids ascending, the rows that are refused, and the newest id of either (NO_ROW: there
    is none)."""

    rows: list[TradeRow]
    refused: list[RefusedTrade]
    newest: int


def trades_of(answer: Any, symbol: str, from_id: int, rows_max: int) -> TradeAnswer:
    """The aggTrades of a decoded answer, ids ascending from `from_id` on.

    A row that cannot be one, or is out of order, is refused by itself. Malformed if the answer is no list of rows, or
    none of its rows has an id.
    """
    if not isinstance(answer, list) or len(answer) > rows_max:
        raise Malformed(f"aggTrades of {symbol}: not a list of at most {rows_max} rows: {str(answer)[:100]}")
    rows: list[TradeRow] = []
    refused: list[tuple[str, int, int | None]] = []
    least, newest = from_id, NO_ROW
    found_ids = [_id_of(row, from_id) for row in answer]
    ascending = ascending_places(found_ids)
    for place, row in enumerate(answer):
        trade_id = found_ids[place] if place in ascending else None
        if trade_id is None:
            refused.append((f"{str(row)[:200]}: it is malformed or out of order", least, None))
            continue
        least, newest = trade_id + 1, trade_id
        found = _trade_of(row, symbol)
        if isinstance(found, TradeRow):
            rows.append(found)
        else:
            refused.append((f"{str(row)[:200]}: {found}", trade_id, trade_id))
    if refused and newest == NO_ROW:
        raise Malformed(f"aggTrades of {symbol}: {refused[0][0]}")
    ids = [row.id for row in rows]
    between = []
    for said, low, trade_id in refused:
        behind = ids[bisect_left(ids, low)] - 1 if low <= (ids[-1] if ids else 0) else INT64_MAX
        between.append(RefusedTrade(said, (trade_id, trade_id) if trade_id is not None else (low, behind)))
    return TradeAnswer(rows, between, newest)


def _id_of(row: Any, from_id: int) -> int | None:
    """The id of a row that has one, not below `from_id`; else None."""
    trade_id = row.get("a") if isinstance(row, dict) else None
    return trade_id if isinstance(trade_id, int) and from_id <= trade_id <= INT64_MAX else None


def _trade_of(row: dict[str, Any], symbol: str) -> TradeRow | str:
    """The trade that a row is, or why it cannot be one."""
    trade_id, price, qty, first, last, time_ms, maker = (row.get(name) for name in "apqflTm")
    price, qty = without_residue(price), without_residue(qty)
    problem = trade_problem(trade_id, price, qty, first, last, time_ms, maker)
    if problem is not None:
        return f"{problem.what}: {problem.reason}"
    assert isinstance(qty, str)
    return TradeRow(symbol, trade_id, price, qty, first, last, time_ms, maker, trade_counts(qty))  # type: ignore[arg-type]


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


def refused_finding(request: Request, refused: Sequence[str], time_ms: int) -> Fields:
    """The finding that rows of the exchange's answer cannot be what they should; `time_ms` is exchange ms."""
    trades = request.kind != REQUEST_KLINES
    kind = FindingKind.MALFORMED if trades else FindingKind.OFFICIAL_REFUSED
    more = f", and {len(refused) - REFUSED_SHOWN} more" if len(refused) > REFUSED_SHOWN else ""
    evidence = f"refused of the exchange's answer: {'; '.join(refused[:REFUSED_SHOWN])}{more}"
    return finding_entry(kind, Severity.WARNING, evidence, symbol=request.symbol, time_ms=time_ms)


def _requested(request: Request) -> str:
    if request.kind != REQUEST_KLINES:
        return f"the trades with the ids {_span(request.first, request.last)}"
    first, last = (
        f"{datetime.fromtimestamp(each / 1000, UTC):%Y-%m-%d %H:%M}" for each in (request.first, request.last)
    )
    return f"the {request.interval} klines that open from {first} until before {last} (UTC)"


def _span(first: int, last: int) -> str:
    return f"{first}" if first == last else f"{first} to {last}"
