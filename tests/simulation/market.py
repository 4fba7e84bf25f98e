"""The virtual exchange: what is traded in a world, and what its REST answers say of it.

Truth is every trade. Symbols trade in windows with quiet minutes between them, in bursts and on single milliseconds;
ids begin at 1 or at a large number; some symbols change their tick size on the way. Now and then the whole market is
quiet for so long that the world leaps over it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from aggregator.symbols import ROOM_SCALES
from ingest.repair_pages import TRADES_PATH, Call
from klagg.binance.kline_rows import KLINES_PATH
from klagg.intervals import MINUTE_MS, interval
from klagg.wire.entries import AGG_IDS, TRADE_IDS, Listing, TradeRow
from tests.aggregator.kit import T0

HISTORY_MS = 1_000_000
"""How long before the start of klagg a symbol that is joined midway has been traded."""
FIRST_MS = 3_000
"""The first trades come this much after the start."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a seed decides once. `begun_ms` is when klagg starts, `lasting_ms` how long the market then goes on; `born`:
    symbols are listed while klagg watches; `ids`: the id space; `leap_ms`: the length of the great silence, 0: none."""

    intervals: tuple[str, ...]
    step_ms: int
    begun_ms: int
    lasting_ms: int
    symbols: int
    trades: int
    born: bool
    ids: str
    leap_ms: int

    @classmethod
    def of(cls, rng: random.Random) -> Shape:
        """A shape by chance. Fine steps go with a short market, so that every seed takes about the same time."""
        step_ms, lasting_ms = rng.choice(((250, 45_000), (1_000, 120_000), (1_000, 150_000), (2_000, 240_000)))
        return cls(
            intervals=rng.choice((("15s", "1m", "5m"), ("15s", "1m", "5m"), ("1m", "5m", "15m"))),
            step_ms=step_ms,
            begun_ms=T0 + rng.randrange(3_600) * 1_000,
            lasting_ms=lasting_ms,
            symbols=rng.randrange(1, 6),
            trades=rng.choice((6, 40, 150, 500)),
            born=rng.random() < 0.3,
            ids=rng.choice((AGG_IDS, AGG_IDS, AGG_IDS, TRADE_IDS)),
            leap_ms=rng.choice((0, 0, 0, 0, 320_000, 700_000, 1_900_000)),
        )

    @property
    def generation(self) -> int:
        """The onboard time of every symbol."""
        return self.begun_ms + 1 if self.born else self.begun_ms - 10**9

    @property
    def proof_ms(self) -> int:
        """How long after the market's end every symbol has its very last trade: it proves the bars before."""
        return max(interval(name).length_ms for name in self.intervals) + 30_000


@dataclass(frozen=True, slots=True)
class Market:
    """`rows` are all trades in order of time, history included; `silence` is a time in which there is none, (0, 0) if
    the market is never silent for long; `end_ms` is when only the proofs are still to come."""

    shape: Shape
    rows: tuple[TradeRow, ...]
    silence: tuple[int, int]
    end_ms: int

    @property
    def names(self) -> list[str]:
        return sorted({row.symbol for row in self.rows})

    def listings(self) -> list[Listing]:
        """What the exchange lists: no decimals, as far as values may teach them; otherwise all that a symbol trades
        with. No exchange trades with finer prices or quantities than it lists, and nobody may believe them."""
        scales = {name: [0, 0] for name in self.names}
        for row in self.rows:
            for place, value in enumerate((row.price, row.qty)):
                decimals = -int(Decimal(value).as_tuple().exponent)
                scales[row.symbol][place] = max(scales[row.symbol][place], decimals)
        listed = {name: found if sum(found) > ROOM_SCALES else (0, 0) for name, found in scales.items()}
        return [
            Listing(name, self.shape.generation, price, qty, "TRADING", 10**13) for name, (price, qty) in listed.items()
        ]

    def last_ids(self) -> dict[str, int]:
        """The highest id of every symbol."""
        return {row.symbol: row.id for row in self.rows}

    def answer(self, call: Call, now_ms: int) -> Any:
        """What the REST of the exchange says at `now_ms`."""
        query = call.query
        rows = [row for row in self.rows if row.symbol == query["symbol"] and row.time <= now_ms]
        if call.path == TRADES_PATH:
            first, limit = int(query["fromId"]), int(query["limit"])
            return [_agg_trade(row) for row in [row for row in rows if row.id >= first][:limit]]
        assert call.path == KLINES_PATH
        assert query["interval"] == "1m", "shorter and longer klines are not asked for with these intervals"
        start_ms, end_ms = int(query["startTime"]), min(int(query["endTime"]), now_ms)
        klines = _minutes([row for row in rows if row.counts], start_ms, end_ms)
        return klines[: int(query["limit"])]


def market_of(shape: Shape, rng: random.Random) -> Market:
    """The trades of a market of that shape."""
    start_ms = shape.begun_ms + FIRST_MS
    end_ms = shape.begun_ms + shape.lasting_ms
    silence = (0, 0)
    if shape.leap_ms:
        begin_ms = rng.randrange(start_ms, end_ms)
        silence = begin_ms, begin_ms + shape.leap_ms
    rows: list[TradeRow] = []
    for number in range(shape.symbols):
        times = _times(rng, rng.randrange(1, shape.trades + 1), start_ms, end_ms)
        times = [each if each < silence[0] or not shape.leap_ms else each + shape.leap_ms for each in times]
        if not shape.born:
            times = [*sorted(shape.begun_ms - rng.randrange(1, HISTORY_MS) for _ in range(rng.randrange(30))), *times]
        times.append(end_ms + shape.leap_ms + shape.proof_ms)
        rows += _trades(rng, f"S{number}USDT", times, shape)
    return Market(shape, tuple(sorted(rows, key=lambda row: row.time)), silence, end_ms + shape.leap_ms)


def _times(rng: random.Random, count: int, start_ms: int, end_ms: int) -> list[int]:
    """Times of trades: most of them in a few windows, many in one millisecond; between the windows it is quiet."""
    windows = [
        (at, min(end_ms, at + rng.choice((50, 2_000, 20_000))))
        for at in (rng.randrange(start_ms, end_ms) for _ in range(rng.randrange(1, 5)))
    ]
    times: list[int] = []
    for _ in range(count):
        low, high = rng.choice(windows) if rng.random() < 0.9 else (start_ms, end_ms)
        times.append(rng.randrange(low, high) if not times or rng.random() < 0.8 else times[-1])
    return sorted(times)


def _trades(rng: random.Random, name: str, times: list[int], shape: Shape) -> list[TradeRow]:
    """Trades at these times. Ids are contiguous, those of fills within aggTrades may leave some out; from some trade on
    prices may need more decimals."""
    number = 1 if shape.born else rng.randrange(2, 10**9)
    fill = rng.randrange(1, 10**9)
    price_decimals, qty_decimals = rng.randrange(5), rng.randrange(4)
    change = rng.randrange(2 * len(times))
    price = rng.randrange(10_000, 10_000_000)
    rows = []
    for at, time_ms in enumerate(times):
        if at == change:
            price_decimals, price = price_decimals + 2, price * 100
        price = max(1, price + rng.randrange(-price // 100 - 1, price // 100 + 2))
        fills, counts = (rng.choice((1, 1, 2, 5)), True) if shape.ids == AGG_IDS else (1, rng.random() > 0.05)
        fill = fill if shape.ids == AGG_IDS else number
        rows.append(
            TradeRow(
                name,
                number,
                str(Decimal(price).scaleb(-price_decimals)),
                str(Decimal(rng.randrange(1, 10**5)).scaleb(-qty_decimals)),
                fill,
                fill + fills - 1,
                time_ms,
                rng.random() < 0.5,
                counts,
            )
        )
        number, fill = number + 1, fill + fills + (rng.random() < 0.05) * rng.randrange(3)
    rows[0] = replace(rows[0], counts=True)
    rows[-1] = replace(rows[-1], counts=True)
    return rows


def _agg_trade(row: TradeRow) -> dict[str, Any]:
    return {"a": row.id, "p": row.price, "q": row.qty, "f": row.first, "l": row.last, "T": row.time, "m": row.maker}


def _minutes(rows: list[TradeRow], start_ms: int, end_ms: int) -> list[list[Any]]:
    """The one-minute klines with open times in [start, end] as the exchange writes them; none before a first trade."""
    found = []
    open_ms = -(-start_ms // MINUTE_MS) * MINUTE_MS
    while open_ms <= end_ms:
        inside = [row for row in rows if open_ms <= row.time < open_ms + MINUTE_MS]
        before = [row for row in rows if row.time < open_ms]
        if inside or before:
            prices = [Decimal(row.price) for row in inside] or [Decimal(before[-1].price)]
            sums = [
                sum((Decimal(row.qty) * (Decimal(row.price) if quoted else 1) for row in part), Decimal(0))
                for part in (inside, [row for row in inside if not row.maker])
                for quoted in (False, True)
            ]
            count = sum(row.last - row.first + 1 for row in inside)
            texts = [f"{each:f}" for each in (prices[0], max(prices), min(prices), prices[-1], *sums)]
            found.append([open_ms, *texts[:5], open_ms + MINUTE_MS - 1, texts[5], count, *texts[6:], "0"])
        open_ms += MINUTE_MS
    return found
