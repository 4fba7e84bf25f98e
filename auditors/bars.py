"""One version of a bar as the completeness auditor keeps it, what must hold within it, and a fold of minutes. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Context, Decimal
from typing import Any, Final

from klagg.edge_splits import OUT
from klagg.intervals import INTERVALS
from klagg.kline import Kline
from klagg.wire.findings import FindingKind

OWN, EXCHANGE, MIXED = "own", "exchange", "mixed"
_WHOSE_WORD: Final = frozenset({(0, 0), (1, 0), (0, 1)})
"""What `complete` and `official` may be together."""
_EXACT: Final = Context(prec=120)
"""Products of two values of 38 digits are exact in it."""

KEPT: Final = (
    "epoch",
    "revision",
    "complete",
    "official",
    "open",
    "high",
    "low",
    "close",
    "volume",
    "quote_volume",
    "trades",
    "taker_buy_volume",
    "taker_buy_quote_volume",
    "first_agg_id",
    "last_agg_id",
    "first_trade_id",
    "last_trade_id",
    "source",
)
_COMPLETE: Final = KEPT.index("complete")
_NUMBERS: Final = frozenset(
    {
        "epoch",
        "revision",
        "complete",
        "official",
        "trades",
        "first_agg_id",
        "last_agg_id",
        "first_trade_id",
        "last_trade_id",
    }
)


@dataclass(frozen=True, slots=True)
class BarValues:
    """The values of one version of a bar as numbers. Prices and volumes are exact decimals; ids are -1 where there is
    none. `moved_id` is the aggTrade whose later fills were moved to the next bar (klagg.edge_splits)."""

    epoch: int
    revision: int
    complete: int
    official: int
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal
    quote_volume: Decimal
    trades: int
    taker_buy_volume: Decimal
    taker_buy_quote_volume: Decimal
    first_agg_id: int
    last_agg_id: int
    first_trade_id: int
    last_trade_id: int
    source: str
    moved_id: int = -1

    @property
    def version(self) -> tuple[int, int, int, int]:
        """(epoch, revision, complete, official); a later version is higher."""
        return self.epoch, self.revision, self.complete, self.official

    @property
    def whole(self) -> bool:
        """Whether nothing is missing, as own ids prove or the exchange's klines say."""
        return self.complete == 1 or self.official == 1

    @property
    def empty(self) -> bool:
        """Whether the bar has no trades."""
        return self.trades == 0

    @classmethod
    def of_text(cls, text: str) -> BarValues:
        """The values in a text that `text_of_kline` wrote, today or before bars were called official: then `complete`
        was 1 as well where `source` tells that the exchange's klines made the bar whole."""
        text, _, moved = text.partition(OUT)
        values: list[Any] = text.split(",")
        if len(values) == len(KEPT) - 1:
            told = values[_COMPLETE] == "1" and values[-1] != OWN
            values[_COMPLETE : _COMPLETE + 1] = ("0", "1") if told else (values[_COMPLETE], "0")
        for at, name in enumerate(KEPT[:-1]):
            values[at] = int(values[at]) if name in _NUMBERS else Decimal(values[at])
        values.append(int(moved) if moved else -1)
        return cls(*values)


def text_of_kline(kline: Kline) -> str:
    """What is kept of a kline, as one short text; behind OUT the aggTrade whose fills were moved to the next bar."""
    text = ",".join(str(getattr(kline, name)) for name in KEPT)
    moved = [piece[1:].partition(":")[0] for piece in kline.edge.split(";") if piece.startswith(OUT)]
    return f"{text}{OUT}{moved[0]}" if moved else text


def faults_of(kline: Kline, bar: BarValues) -> Iterator[tuple[FindingKind, str]]:
    """The contradictions within one bar: the kind of the finding and a sentence for each."""
    kind = INTERVALS.get(kline.interval)
    if kind is None:
        yield FindingKind.MALFORMED, f"the interval {kline.interval!r} is unknown"
        return
    opening = kind.open_time(kline.open_time)
    if opening != kline.open_time:
        yield FindingKind.ALIGNMENT, f"{kline.interval} bars open at {opening}, not at {kline.open_time}"
    elif kline.close_time != kind.close_time(opening):
        yield FindingKind.ALIGNMENT, f"closes at {kline.close_time} instead of {kind.close_time(opening)}"
    flags = (kline.complete, kline.official)
    if flags not in _WHOSE_WORD or kline.revision < 1 or kline.source not in (OWN, EXCHANGE, MIXED):
        yield (
            FindingKind.MALFORMED,
            f"complete {kline.complete}, official {kline.official}, revision {kline.revision}, source "
            f"{kline.source!r} mean nothing",
        )
    elif kline.whole and (kline.source == OWN) != (kline.complete == 1):
        yield (
            FindingKind.INVARIANT,
            f"complete {kline.complete}, official {kline.official} and source {kline.source} contradict each other",
        )
    yield from ((FindingKind.SCALE, why) for why in _scale_faults(kline))
    yield from ((FindingKind.INVARIANT, why) for why in _value_faults(bar))


def _scale_faults(kline: Kline) -> Iterator[str]:
    def decimals(name: str) -> int:
        return len(getattr(kline, name).partition(".")[2])

    price, qty = decimals("open"), decimals("volume")
    wanted = {
        "high": price,
        "low": price,
        "close": price,
        "taker_buy_volume": qty,
        "quote_volume": price + qty,
        "taker_buy_quote_volume": price + qty,
    }
    for name, scale in wanted.items():
        if decimals(name) != scale:
            yield f"{name} {getattr(kline, name)} has {decimals(name)} decimals instead of {scale}"


def _value_faults(bar: BarValues) -> Iterator[str]:
    if not bar.low <= min(bar.open, bar.close) <= max(bar.open, bar.close) <= bar.high:
        yield f"open {bar.open}, high {bar.high}, low {bar.low}, close {bar.close} contradict each other"
    if bar.taker_buy_volume > bar.volume or bar.taker_buy_quote_volume > bar.quote_volume:
        taken = f"{bar.taker_buy_volume} of {bar.volume}, for {bar.taker_buy_quote_volume} of {bar.quote_volume}"
        yield f"takers bought {taken}"
    ids = (bar.first_agg_id, bar.last_agg_id, bar.first_trade_id, bar.last_trade_id)
    if bar.trades < 0:
        yield f"{bar.trades} trades"
    elif bar.empty:
        if bar.high != bar.low or bar.volume or bar.quote_volume or ids != (-1, -1, -1, -1):
            yield f"no trades, but high {bar.high}, low {bar.low}, volume {bar.volume}, ids {ids}"
    elif bar.source == OWN:
        if not bar.volume:
            yield f"{bar.trades} trades without a volume"
        if not 0 <= bar.first_trade_id <= bar.last_trade_id or bar.last_trade_id - bar.first_trade_id + 1 < bar.trades:
            yield f"{bar.trades} trades with the ids {bar.first_trade_id} to {bar.last_trade_id}"
        if bar.first_agg_id > bar.last_agg_id or (bar.first_agg_id < 0) != (bar.last_agg_id < 0):
            yield f"ids of aggTrades from {bar.first_agg_id} to {bar.last_agg_id}"
        for amount, paid in ((bar.volume, bar.quote_volume), (bar.taker_buy_volume, bar.taker_buy_quote_volume)):
            if not _EXACT.multiply(bar.low, amount) <= paid <= _EXACT.multiply(bar.high, amount):
                yield f"{amount} at prices from {bar.low} to {bar.high} cannot cost {paid}"


@dataclass(slots=True)
class MinuteFold:
    """The minutes of one longer bar, folded.

    `first_ms` and `last_ms` are the open times (exchange ms) of the first and last minute, `count` is their number.
    `known`: the fold holds every minute of the bar, as far as this auditor has seen. `prices` are open, high, low and
    close (empty before the first minute), `sums` volume, quote volume and the same of taker buys, `ids` first and last
    id of aggTrades and of fills (-1: none). `open_ms` and `close_ms` are the minutes of the first and last trade (-1:
    none).
    """

    first_ms: int
    last_ms: int = -1
    count: int = 0
    known: bool = True
    open_ms: int = -1
    close_ms: int = -1
    prices: list[Decimal] = field(default_factory=list)
    sums: list[Decimal] = field(default_factory=lambda: [Decimal(0)] * 4)
    trades: int = 0
    ids: list[int] = field(default_factory=lambda: [-1, -1, -1, -1])

    def add(self, minute_ms: int, before: BarValues | None, now: BarValues) -> None:
        """Fold in a minute that opens at `minute_ms`; `before` is the version of it that the fold holds already."""
        if before is None:
            self.count += 1
            self.first_ms, self.last_ms = min(self.first_ms, minute_ms), max(self.last_ms, minute_ms)
        else:
            self._add_amounts(before, -1)
            self.known = self.known and (before.empty or not now.empty)
        self._add_amounts(now, 1)
        if now.empty:
            if self.open_ms < 0 and minute_ms == self.last_ms:
                self.prices = [now.open, now.high, now.low, now.close]
            return
        if self.open_ms < 0:
            self.prices = [now.open, now.high, now.low, now.close]
            self.open_ms = self.close_ms = minute_ms
            self.ids[:2] = now.first_agg_id, now.last_agg_id
        if minute_ms <= self.open_ms:
            self.open_ms, self.prices[0], self.ids[0] = minute_ms, now.open, now.first_agg_id
        if minute_ms >= self.close_ms:
            self.close_ms, self.prices[3], self.ids[1] = minute_ms, now.close, now.last_agg_id
        self.prices[1] = max(self.prices[1], now.high)
        self.prices[2] = min(self.prices[2], now.low)
        known = [each for each in (self.ids[2], now.first_trade_id) if each >= 0]
        if before is not None and before.last_trade_id == self.ids[3]:
            self.ids[3] = now.last_trade_id  # fills may have been moved to the next minute
        self.ids[2], self.ids[3] = min(known, default=-1), max(self.ids[3], now.last_trade_id)

    def _add_amounts(self, bar: BarValues, sign: int) -> None:
        amounts = (bar.volume, bar.quote_volume, bar.taker_buy_volume, bar.taker_buy_quote_volume)
        self.sums = [_EXACT.add(held, sign * more) for held, more in zip(self.sums, amounts, strict=True)]
        self.trades += sign * bar.trades

    def differences(self, bar: BarValues) -> list[str]:
        """The fields in which the longer bar differs from this fold, each as a phrase."""
        names = (
            "open",
            "high",
            "low",
            "close",
            "volume",
            "quote_volume",
            "taker_buy_volume",
            "taker_buy_quote_volume",
            "trades",
            "first_agg_id",
            "last_agg_id",
            "first_trade_id",
            "last_trade_id",
        )
        folded = [*self.prices, *self.sums, self.trades, *self.ids]
        return [
            f"{name} {getattr(bar, name)} instead of {value}"
            for name, value in zip(names, folded, strict=True)
            if getattr(bar, name) != value
        ]

    def to_json(self) -> list[Any]:
        """The fold for JSON."""
        return [
            self.first_ms,
            self.last_ms,
            self.count,
            int(self.known),
            self.open_ms,
            self.close_ms,
            [str(each) for each in self.prices],
            [str(each) for each in self.sums],
            self.trades,
            self.ids,
        ]

    @classmethod
    def of_json(cls, saved: list[Any]) -> MinuteFold:
        """The fold that `to_json` described."""
        first, last, count, known, open_ms, close_ms, prices, sums, trades, ids = saved
        return cls(
            first,
            last,
            count,
            bool(known),
            open_ms,
            close_ms,
            list(map(Decimal, prices)),
            list(map(Decimal, sums)),
            trades,
            list(ids),
        )
