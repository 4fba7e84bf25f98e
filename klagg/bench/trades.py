"""Made-up trades in columns for the benches: many symbols, a few of them with most of the trades, ids in order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from klagg.arrays import Ints
from klagg.wire.entries import AGG_IDS, trades_entry
from klagg.wire.fields import Fields

START_MS = 1_700_006_400_000
"""An hour's beginning."""
FIRST_ID = 100_000_000
PRICE_SCALE, QTY_SCALE = 2, 3


@dataclass(slots=True)
class Trades:
    """N trades: slots and integers at PRICE_SCALE and QTY_SCALE."""

    slot: Ints
    id: Ints
    price: Ints
    qty: Ints
    first: Ints
    last: Ints
    time: Ints
    maker: npt.NDArray[np.bool_]


class TradeGenerator:
    """Trades of `symbols` symbols, symbol k having the weight 1/(k + 10); the same seed gives the same trades."""

    def __init__(self, symbols: int, seed: int = 1) -> None:
        self.names = [f"S{number:04}USDT" for number in range(symbols)]
        self._rng = np.random.default_rng(seed)
        weights = 1 / np.arange(10, symbols + 10)
        self._weights = weights / weights.sum()
        self._next_id = np.full(symbols, FIRST_ID, np.int64)

    def trades(self, count: int, from_ms: int, to_ms: int) -> Trades:
        """The next `count` trades, with times in [from_ms, to_ms)."""
        rng, symbols = self._rng, len(self.names)
        slot = rng.choice(symbols, count, p=self._weights).astype(np.int64)
        order = np.argsort(slot, kind="stable")
        counts = np.bincount(slot, minlength=symbols)
        starts = np.repeat(np.cumsum(counts) - counts, counts)
        ids = np.empty(count, np.int64)
        ids[order] = self._next_id[slot[order]] + np.arange(count) - starts
        self._next_id += counts
        first = 2 * ids
        return Trades(
            slot,
            ids,
            10_000 + rng.integers(-100, 100, count),
            rng.integers(1, 10**6, count),
            first,
            first + rng.integers(0, 2, count),
            np.sort(rng.integers(from_ms, to_ms, count)),
            rng.integers(0, 2, count).astype(np.bool_),
        )

    def entries(self, trades: Trades, rows: int) -> Iterator[Fields]:
        """The trades as feed entries of `rows` rows."""
        prices = [f"{value // 100}.{value % 100:02}" for value in trades.price.tolist()]
        amounts = [f"{value // 1000}.{value % 1000:03}" for value in trades.qty.tolist()]
        columns = {
            "symbol": [self.names[slot] for slot in trades.slot.tolist()],
            "price": prices,
            "qty": amounts,
            "id": list(map(str, trades.id.tolist())),
            "first": list(map(str, trades.first.tolist())),
            "last": list(map(str, trades.last.tolist())),
            "time": list(map(str, trades.time.tolist())),
            "maker": ["1" if maker else "0" for maker in trades.maker.tolist()],
            "counts": ["1"] * len(trades.slot),
        }
        for at in range(0, len(trades.slot), rows):
            part = {name: column[at : at + rows] for name, column in columns.items()}
            yield trades_entry(
                {name: ",".join(texts) for name, texts in part.items()},
                count=len(part["id"]),
                line="A",
                ids=AGG_IDS,
                recv_ms=int(trades.time[-1]),
            )
