"""How the exchange splits an aggTrade at a close, and the proof that two bars differ by such a split alone. Pure.

An aggTrade has the time of its first fill; later fills of the same price and side come up to 100 ms after it
(https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-market-streams/Aggregate-Trade-Streams),
and the exchange's klines count fills. So the last aggTrade before a close may have fills behind it: klagg's earlier bar
has all of them, the exchange's later bar has some. A kline lists the aggTrades at its close as its `edge`.

Fill ids ascend with time. So only the last aggTrade of a bar can straddle its close, and only its last fills can be
behind it. All of them have one price and one side, so their quantity gives every other amount. A difference is proven
to be a split if it is exactly that, and if both bars then equal the exchange's rows in all nine values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Context, Decimal
from typing import Any, Final

from klagg.errors import ContractError
from klagg.intervals import Interval
from klagg.kline import DECIMAL_FIELDS, NINE_VALUES, Kline, Values, differences

RUN_MAX: Final = 60
"""Bars of a run of splits, each of which moves fills into a bar that loses others."""

AMOUNTS: Final = ("volume", "quote_volume", "trades", "taker_buy_volume", "taker_buy_quote_volume")
OWN: Final = "own"
"""The source of a kline that was folded from trades alone."""
_EXACTLY: Final = Context(prec=120)
_NOTHING: Final = dict.fromkeys(AMOUNTS, Decimal(0))

EXCHANGE_EDGES: Final = "exchange"
OWN_EDGES: Final = "own"
EDGES: Final = (EXCHANGE_EDGES, OWN_EDGES)
"""Where the later fills of an aggTrade that straddles a close count: in the bar in which the exchange counts them, once
its row proves it, or in the bar of the first fill."""

OUT, IN = ">", "<"
"""How a piece of `edge` begins that says which fills the bar gave to the next one, or has from the one before it."""


@dataclass(frozen=True, slots=True)
class Edge:
    """An aggTrade right before a close: the fills `first` to `last` at one price, `maker` whether the buyer was the
    maker. `time_ms` is that of its first fill (exchange ms)."""

    id: int
    first: int
    last: int
    time_ms: int
    price: Decimal
    qty: Decimal
    maker: bool

    @property
    def fills(self) -> int:
        """How many fills it has."""
        return self.last - self.first + 1


def edges_of(kline: Kline) -> list[Edge]:
    """The aggTrades at the close of a kline (`id:first:last:time:price:qty:maker` each); ContractError if its `edge`
    does not hold such."""
    found = []
    for text in filter(None, kline.edge.split(";")):
        if text[0] in (OUT, IN):
            continue
        parts = text.split(":")
        if len(parts) != 7:
            raise ContractError(f"edge evidence has {len(parts)} parts instead of 7: {text[:80]!r}")
        number, first, last, time_ms, price, qty, maker = parts
        found.append(Edge(int(number), int(first), int(last), int(time_ms), Decimal(price), Decimal(qty), maker == "1"))
    return found


def is_adopted(kline: Kline) -> bool:
    """Whether the exchange's split was made at the open or at the close of a kline."""
    return kline.edge[:1] in (IN, OUT)


def values_of(kline: Kline) -> dict[str, Decimal | int | None]:
    """The nine values of one of our klines as numbers."""
    return {**{name: Decimal(getattr(kline, name)) for name in DECIMAL_FIELDS}, "trades": kline.trades}


@dataclass(frozen=True, slots=True)
class Split:
    """The exchange counts the last `fills` fills of an aggTrade, `qty` together, in the bar that opens at `close_ms`
    (exchange ms), which is where the aggTrade's own bar ends."""

    close_ms: int
    edge: Edge
    fills: int
    qty: Decimal

    @property
    def first_moved(self) -> int:
        """The id of the first fill that is in the later bar."""
        return self.edge.last - self.fills + 1

    def amounts(self) -> dict[str, Decimal]:
        """What the later bar has more, by the names of AMOUNTS."""
        quote = _EXACTLY.multiply(self.edge.price, self.qty)
        taken = not self.edge.maker
        return {
            "volume": self.qty,
            "quote_volume": quote,
            "trades": Decimal(self.fills),
            "taker_buy_volume": self.qty if taken else Decimal(0),
            "taker_buy_quote_volume": quote if taken else Decimal(0),
        }


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive bars that are the exchange's to the last digit once `splits` are made: `klines` with them, in order
    of time."""

    splits: Sequence[Split]
    klines: Sequence[Kline]


def runs(interval: Interval, ours: Mapping[int, Kline], theirs: Mapping[int, Values]) -> Iterator[Run]:
    """The runs of bars that differ by proven splits alone, the earliest first. `ours` and `theirs` are by open time."""
    at = 0
    for opening in sorted(ours):
        if opening >= at and opening in theirs and differences(values_of(ours[opening]), theirs[opening]):
            found = run_from(interval, opening, ours, theirs)
            if found is not None:
                at = found.klines[-1].close_time + 1
                yield found


def run_from(interval: Interval, opening: int, ours: Mapping[int, Kline], theirs: Mapping[int, Values]) -> Run | None:
    """The shortest run that begins with the bar that opens at `opening` (exchange ms), into which nothing has come;
    None if splits do not explain the bars there to the last digit."""
    bars: list[Kline] = []
    splits: list[Split] = []
    came: Mapping[str, Decimal] = _NOTHING
    for at in _opens(interval, opening):
        kline, row = ours.get(at), theirs.get(at)
        if kline is None or row is None or not _is_judged(kline, row):
            return None
        bars.append(kline)
        gone = {
            name: Decimal(getattr(kline, name)) + came[name] - Decimal(row[name] or 0)  # `_is_judged`: none is None
            for name in AMOUNTS
        }
        if not any(gone.values()):
            break
        split = _split_of(kline, ours.get(interval.close_time(at) + 1), gone)
        if split is None:
            return None
        splits.append(split)
        came = gone
    else:
        return None
    klines = made(bars, splits)
    if not splits or any(differences(values_of(each), theirs[each.open_time]) for each in klines):
        return None
    return Run(splits, klines)


def _opens(interval: Interval, opening: int) -> Iterator[int]:
    bucket = interval.bucket_of(opening)
    return (interval.open_of(bucket + number) for number in range(RUN_MAX))


def _is_judged(kline: Kline, row: Values) -> bool:
    """Whether own ids prove the bar, and the exchange's row has all nine values."""
    return kline.complete == 1 and kline.source == OWN and all(row.get(name) is not None for name in NINE_VALUES)


def _split_of(kline: Kline, following: Kline | None, gone: Mapping[str, Decimal]) -> Split | None:
    """The split at the close of a bar that gives exactly these amounts to the next one; None if ids or amounts say that
    there is none."""
    edge = max(edges_of(kline), key=lambda each: each.id, default=None)
    if edge is None or following is None or (edge.id, edge.last) != (kline.last_agg_id, kline.last_trade_id):
        return None
    if following.trades and (following.first_agg_id != edge.id + 1 or following.first_trade_id <= edge.last):
        return None
    qty = round(gone["volume"], len(kline.volume.partition(".")[2]))
    split = Split(kline.close_time + 1, edge, int(gone["trades"]), qty)
    possible = 0 < split.fills < edge.fills and 0 < qty < edge.qty
    return split if possible and gone == split.amounts() else None


def made(bars: Sequence[Kline], splits: Sequence[Split]) -> list[Kline]:
    """These consecutive bars with the splits at their closes made: the later bar of each has its fills."""
    by_close = {each.close_ms: each for each in splits}
    return [_with(each, by_close.get(each.open_time), by_close.get(each.close_time + 1)) for each in bars]


def _with(kline: Kline, came: Split | None, goes: Split | None) -> Kline:
    """A bar with the fills that came in from the one before, and without those that go out to the next."""
    values: dict[str, Decimal] = {name: Decimal(getattr(kline, name)) for name in NINE_VALUES}
    ids = {name: getattr(kline, name) for name in ("first_agg_id", "last_agg_id", "first_trade_id", "last_trade_id")}
    if came is not None:
        price, empty = came.edge.price, not kline.trades
        values |= {name: _EXACTLY.add(values[name], more) for name, more in came.amounts().items()}
        values["open"] = price
        values["high"] = price if empty else max(values["high"], price)
        values["low"] = price if empty else min(values["low"], price)
        values["close"] = price if empty else values["close"]
        ids |= {"first_agg_id": came.edge.id, "first_trade_id": came.first_moved}
        if empty:
            ids |= {"last_agg_id": came.edge.id, "last_trade_id": came.edge.last}
    if goes is not None:
        values |= {name: _EXACTLY.subtract(values[name], less) for name, less in goes.amounts().items()}
        ids["last_trade_id"] = goes.first_moved - 1
    texts: dict[str, Any] = {name: _text(values[name], getattr(kline, name)) for name in DECIMAL_FIELDS}
    return replace(kline, **texts, **ids, trades=int(values["trades"]), edge=_edge_with(kline.edge, came, goes))


def _edge_with(edge: str, came: Split | None, goes: Split | None) -> str:
    """Edge evidence with the splits that were made in front of it."""
    said = [
        moved_text(way, split.edge.id, split.fills, str(split.qty), str(split.edge.price))
        for way, split in ((IN, came), (OUT, goes))
        if split is not None
    ]
    return ";".join(filter(None, [*said, edge]))


def moved_text(way: str, trade: int, fills: int, qty: str, price: str) -> str:
    """A piece of edge evidence: so many fills of an aggTrade were moved in (IN) or out (OUT)."""
    return f"{way}{trade}:{fills}:{qty}:{price}"


def _text(value: Decimal, like: str) -> str:
    """A number with as many decimals as a text has."""
    return f"{value:.{len(like.partition('.')[2])}f}"
