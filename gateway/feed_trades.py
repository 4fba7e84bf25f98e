"""The aggTrades that the feed holds: how entries are read, what is gathered of a symbol, and Binance's shapes. Pure.

A trade stands in the feed once for every line that received it, and one that was repaired stands later than its time.
So ids decide what an answer holds and what it lacks, never the order of the feed. Ids of a symbol are contiguous
(docs/reference/binance.md) and begin anew when it is listed again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Final, NamedTuple

from klagg.binance.serving.payloads import USD_M, quoted
from klagg.errors import ContractError
from klagg.wire.entries import AGG_IDS, TICK, TRADES
from klagg.wire.fields import RawFields, integer_of, text_of, upgraded

SKEW_MS: Final = 1000
"""Of two trades of one listing, the one with the higher id is not earlier than the other by more than this (exchange
ms). Where it is, the ids have begun anew: the symbol was listed again."""

ROWS_MAX: Final = 20_000
"""Trades that are gathered for an answer at most; those that it cannot need go."""

_COLUMNS: Final = tuple(name.encode() for name in ("id", "price", "qty", "first", "last", "time", "maker"))


class FeedTrade(NamedTuple):
    """An aggTrade with price and quantity as the exchange wrote them. `time` and `recv_ms` (when it was received) are
    exchange ms, `first` and `last` fill ids."""

    id: int
    price: str
    qty: str
    first: int
    last: int
    time: int
    maker: bool
    recv_ms: int

    def row(self) -> dict[str, object]:
        """An item of `GET /fapi/v1/aggTrades` (Binance USDⓈ-M docs, "Compressed/Aggregate Trades List"), without `nq`,
        which the feed does not keep."""
        return {
            "a": self.id,
            "p": self.price,
            "q": self.qty,
            "f": self.first,
            "l": self.last,
            "T": self.time,
            "m": self.maker,
        }

    def event(self, symbol: str) -> str:
        """The `aggTrade` event (Binance USDⓈ-M docs, "Aggregate Trade Streams"), without `nq`; `E` is when klagg
        received it."""
        return (
            f'{{"e":"aggTrade","E":{max(self.recv_ms, self.time)},"a":{self.id},"s":{quoted(symbol)},'
            f'"p":"{self.price}","q":"{self.qty}","f":{self.first},"l":{self.last},"T":{self.time},'
            f'"m":{"true" if self.maker else "false"},"st":{USD_M}}}'
        )


def time_in(raw: RawFields) -> int:
    """The exchange time (ms) at which an entry was written or a little before; 0 for an entry that does not say it."""
    try:
        kind = raw.get(b"kind")
        if kind == TRADES.encode():
            return integer_of(raw, "recv")
        return integer_of(raw, "time") if kind == TICK.encode() else 0
    except ContractError:
        return 0


def trades_in(raw: RawFields, symbols: dict[bytes, str]) -> Iterator[tuple[str, FeedTrade]]:
    """The aggTrades of these symbols (by their UTF-8) in an entry of the feed; ContractError if it cannot be read."""
    if raw.get(b"kind") != TRADES.encode() or raw.get(b"ids") != AGG_IDS.encode():
        return
    names = raw.get(b"symbol", b"").split(b",")
    places = [place for place, name in enumerate(names) if name in symbols]
    if not places:
        return
    raw = upgraded(raw)
    recv_ms = integer_of(raw, "recv")
    columns = [text_of(raw, name.decode()).split(",") for name in _COLUMNS]
    if any(len(column) != len(names) for column in columns):
        raise ContractError("the columns of a trades entry differ in length")
    ids, prices, qtys, firsts, lasts, times, makers = columns
    try:
        found = [
            (
                symbols[names[at]],
                FeedTrade(
                    int(ids[at]),
                    prices[at],
                    qtys[at],
                    int(firsts[at]),
                    int(lasts[at]),
                    int(times[at]),
                    makers[at] == "1",
                    recv_ms,
                ),
            )
            for at in places
        ]
    except ValueError:
        raise ContractError("a trades entry holds an id or a time that is no number") from None
    yield from found


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a request wants: `limit` trades from `from_id` on, or from `start_ms` (exchange ms), or, without either, the
    newest; none later than `end_ms`. Both times are included. Trades before `onboard_ms` are of an earlier listing."""

    limit: int
    from_id: int | None = None
    start_ms: int | None = None
    end_ms: int | None = None
    onboard_ms: int = 0

    @property
    def newest(self) -> bool:
        """Whether the last trades are wanted, not the first."""
        return self.from_id is None and self.start_ms is None

    def is_before(self, trade: FeedTrade) -> bool:
        """Whether a trade lies before what is wanted."""
        if self.from_id is not None:
            return trade.id < self.from_id
        return self.start_ms is not None and trade.time < self.start_ms

    def is_behind(self, trade: FeedTrade) -> bool:
        """Whether a trade lies behind what is wanted; an id beats times."""
        return self.from_id is None and self.end_ms is not None and trade.time > self.end_ms


class Found(NamedTuple):
    """Trades of one symbol by id, and how many ids between them are missing. `begun`: whether they begin where the
    request wanted, by proof of ids."""

    trades: list[FeedTrade]
    missing: int
    begun: bool


@dataclass(slots=True)
class Gathered:
    """What was read of one symbol for a request, each id once, in whatever order it was read.

    `_before` is the trade with the highest id that lies before what is wanted, `_behind` the lowest id behind it.
    """

    wanted: Wanted
    _rows: dict[int, FeedTrade] = field(default_factory=dict)
    _outside: set[int] = field(default_factory=set)
    _before: FeedTrade | None = None
    _behind: int | None = None
    _latest: FeedTrade | None = None

    def add(self, trade: FeedTrade, *, repaired: bool = False) -> None:
        """Add a trade; one that is there already, or of an earlier listing of the symbol, changes nothing.

        A `repaired` one stands later in the feed than its time, so it does not prove that the feed reaches back to it.
        """
        latest = self._latest
        if trade.time < self.wanted.onboard_ms:
            return
        if latest is not None and trade.id > latest.id and trade.time < latest.time - SKEW_MS:
            return
        if latest is not None and trade.id <= latest.id and trade.time > latest.time + SKEW_MS:
            self._rows.clear()
            self._outside.clear()
            self._before = self._behind = None
        if latest is None or trade.time >= latest.time:
            self._latest = trade
        if self.wanted.is_before(trade):
            if not repaired:
                self._before = trade if self._before is None else max(self._before, trade)
        elif self.wanted.is_behind(trade):
            self._behind = trade.id if self._behind is None else min(self._behind, trade.id)
        else:
            self._rows[trade.id] = trade
            if len(self._rows) > ROWS_MAX:
                self._drop_half()
            return
        if len(self._outside) < ROWS_MAX:
            self._outside.add(trade.id)

    def _drop_half(self) -> None:
        """Keep what is nearest to the end that is wanted."""
        ids = sorted(self._rows, reverse=self.wanted.newest)
        for trade_id in ids[ROWS_MAX // 2 :]:
            del self._rows[trade_id]

    @property
    def begun(self) -> bool:
        """Whether it is known where the wanted trades begin: by one before them, or because they are the very first."""
        if self.wanted.newest:
            return len(self._rows) >= self.wanted.limit or self._is_first(min(self._rows, default=None))
        asked = self.wanted.from_id
        return self._before is not None or asked in self._rows or self._is_first(min(self._rows, default=None))

    @staticmethod
    def _is_first(trade_id: int | None) -> bool:
        """Whether no trade of the listing can have a lower id: they begin at 1."""
        return trade_id is not None and trade_id <= 1

    @property
    def enough(self) -> bool:
        """Whether nothing that the feed may hold elsewhere can change the answer."""
        if not self.begun:
            return False
        rows, limit = self._rows, self.wanted.limit
        if self.wanted.newest:
            top = (max(rows) if self._behind is None else self._behind - 1) if rows else 0
            lowest = max(1, top - limit + 1)
            return bool(rows) and all(each in rows for each in range(top, lowest - 1, -1))
        first = self._first()
        ids = range(first, first + limit) if first is not None else range(0)
        run = next((place for place, each in enumerate(ids) if each not in rows), limit)
        return first is not None and (run >= limit or first + run == self._behind)

    def _first(self) -> int | None:
        """The id with which the answer begins, if nothing of it is missing; None: it is not known."""
        least = min(self._rows, default=None)
        asked = self.wanted.from_id
        if asked is not None and (self._before is not None or asked in self._rows):
            return asked
        if self._before is not None:
            return self._before.id + 1 if least is None else min(least, self._before.id + 1)
        return least

    @property
    def floor_ms(self) -> int | None:
        """The exchange time (ms) before which no entry can have been written that the answer still needs: nobody
        receives a trade before it takes place. None: it is not known yet where the answer begins."""
        if not self.begun:
            return None
        ids = sorted(self._rows)[-self.wanted.limit if self.wanted.newest else 0 :]
        edge = self._rows[ids[0]] if ids and (self._before is None or self.wanted.newest) else self._before
        return None if edge is None else edge.time - SKEW_MS

    def found(self) -> Found:
        """The answer, as far as it was gathered."""
        ids = sorted(self._rows)
        limit, begun = self.wanted.limit, self.begun
        full = len(ids) >= limit
        chosen = ids[-limit:] if self.wanted.newest else ids[:limit]
        first = chosen[0] if self.wanted.newest and chosen else self._first()
        last = chosen[-1] if chosen else None
        if self._behind is not None and (self.wanted.newest or not full):
            last = self._behind - 1
        missing = 0
        if first is not None and last is not None:
            seen = sum(1 for each in ids if first <= each <= last)
            seen += sum(1 for each in self._outside if first <= each <= last and each not in self._rows)
            missing = max(0, last - first + 1 - seen)
        return Found([self._rows[each] for each in chosen], missing, begun)


@dataclass(slots=True)
class InOrder:
    """One symbol's trades in the order of their ids, each once, for a stream that goes on.

    A trade behind a gap waits `patience_ms` for the ones before it, because the other line, or repair, often brings
    them soon. Then the gap is skipped: what of it comes later is never sent, because Binance never sends an id that is
    lower than one before. `skipped` counts the ids. A client may miss nothing else.
    """

    patience_ms: float
    waiting_max: int
    skipped: int = 0
    _last: FeedTrade | None = None
    _waiting: dict[int, FeedTrade] = field(default_factory=dict)
    _since_ms: float = 0.0

    def add(self, trade: FeedTrade, now_ms: float) -> list[FeedTrade]:
        """The trades that may be sent now that this one has come, at `now_ms` (monotonic)."""
        last = self._last
        if last is None or trade.id == last.id + 1:
            self._last = trade
            return [trade, *self._run(now_ms)]
        if trade.id <= last.id:
            if trade.time <= last.time + SKEW_MS:
                return []
            out = self._all()  # the symbol was listed again, and its ids begin anew
            self._last = trade
            return [*out, trade]
        if trade.time >= last.time - SKEW_MS:  # else it is of the listing before
            if not self._waiting:
                self._since_ms = now_ms
            self._waiting.setdefault(trade.id, trade)
        return self._past_gap(now_ms) if len(self._waiting) > self.waiting_max else []

    def overdue(self, now_ms: float) -> list[FeedTrade]:
        """What has waited long enough at `now_ms` (monotonic)."""
        return self._past_gap(now_ms) if self._waiting and now_ms - self._since_ms >= self.patience_ms else []

    def _run(self, now_ms: float) -> list[FeedTrade]:
        """The waiting trades that follow the last one without a gap; what waits behind another gap waits anew."""
        if not self._waiting or self._last is None:
            return []
        found = []
        for trade_id in count(self._last.id + 1):
            trade = self._waiting.pop(trade_id, None)
            if trade is None:
                break
            found.append(trade)
        if found:
            self._last, self._since_ms = found[-1], now_ms
        return found

    def _past_gap(self, now_ms: float) -> list[FeedTrade]:
        """Skip the gap before the first waiting trade."""
        first = self._waiting.pop(min(self._waiting))
        self.skipped += first.id - self._last.id - 1 if self._last is not None else 0
        self._last = first
        return [first, *self._run(now_ms)]

    def _all(self) -> list[FeedTrade]:
        """All that waits, past every gap."""
        found: list[FeedTrade] = []
        while self._waiting:
            found += self._past_gap(0.0)
        return found
