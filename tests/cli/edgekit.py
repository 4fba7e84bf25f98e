"""Recorded fills put together to aggTrades as the exchange does it, so that some straddle a close."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import ujson

AGGREGATED_MS = 100
"""An aggTrade holds the fills of one price and side of so much time."""


@dataclass(frozen=True, slots=True)
class Fill:
    """One fill; `time` is exchange ms, `maker` whether the buyer was the maker."""

    id: int
    time: int
    price: str
    qty: str
    maker: bool


def recorded_fills(realdata: Path, day: str) -> list[Fill]:
    """The fills of a recording that klines count, in the order of their ids."""
    lines = gzip.decompress((realdata / f"um_trade_btcusdt_{day}.txt.gz").read_bytes()).decode().splitlines()
    found = [ujson.loads(line.partition(" ")[2]) for line in lines]
    events = [each.get("data", each) for each in found]
    counted = [each for each in events if each.get("X", "MARKET") == "MARKET"]
    return [Fill(each["t"], each["T"], each["p"], each["q"], each["m"]) for each in counted]


def aggregated(fills: Sequence[Fill]) -> list[list[Fill]]:
    """AggTrades: consecutive fills of one price and side within AGGREGATED_MS of the first of them."""
    found: list[list[Fill]] = []
    for fill in fills:
        first, last = (found[-1][0], found[-1][-1]) if found else (None, None)
        if (
            first is not None
            and last is not None
            and (fill.price, fill.maker, fill.id) == (first.price, first.maker, last.id + 1)
            and fill.time <= first.time + AGGREGATED_MS
        ):
            found[-1].append(fill)
        else:
            found.append([fill])
    return found


def straddled(trades: Sequence[Sequence[Fill]], length_ms: int) -> set[int]:
    """The closes (exchange ms) of bars of this length that aggTrades straddle."""
    ends = ((each[0].time // length_ms, each[-1].time // length_ms) for each in trades)
    return {later * length_ms for earlier, later in ends if earlier != later}


def rest_file(path: Path, trades: Sequence[Sequence[Fill]]) -> Path:
    """The aggTrades as an answer of REST, numbered from 1001 on, because id 1 would be the first trade ever."""
    rows = [
        {
            "a": number,
            "p": fills[0].price,
            "q": str(sum((Decimal(each.qty) for each in fills), Decimal(0))),
            "f": fills[0].id,
            "l": fills[-1].id,
            "T": fills[0].time,
            "m": fills[0].maker,
        }
        for number, fills in enumerate(trades, 1001)
    ]
    path.write_text(ujson.dumps(rows), encoding="utf-8")
    return path


def official_file(path: Path, fills: Sequence[Fill], length_ms: int) -> Path:
    """What the exchange's dump says of these fills: bars of this length, by the time of each fill."""
    lines = []
    price = fills[0].price
    by_bar: dict[int, list[Fill]] = {}
    for each in fills:
        by_bar.setdefault(each.time // length_ms, []).append(each)
    for bucket in range(min(by_bar), max(by_bar) + 1):
        inside = by_bar.get(bucket, [])
        prices = [each.price for each in inside] or [price]
        price = prices[-1]
        sums: list[Decimal] = []
        for some in (inside, [each for each in inside if not each.maker]):
            sums.append(sum((Decimal(each.qty) for each in some), Decimal("0.000")))
            sums.append(sum((Decimal(each.qty) * Decimal(each.price) for each in some), Decimal("0.00000")))
        opening = bucket * length_ms
        high, low = max(prices, key=Decimal), min(prices, key=Decimal)
        amounts = [sums[0], opening + length_ms - 1, sums[1], len(inside), sums[2], sums[3]]
        lines.append(",".join(map(str, [opening, prices[0], high, low, prices[-1], *amounts, 0])))
    path.write_text("\n".join(lines), encoding="utf-8")
    return path
