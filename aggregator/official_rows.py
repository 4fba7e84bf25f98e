"""From `official` entries to arrays: rows of the exchange's own klines, checked, exact, each by itself.

Pure. Values stay (mantissa, decimals) as written until they are applied, because a symbol's scales may rise meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aggregator.arrays import Bools, Ints
from aggregator.columns import at_scale, significant_decimals
from aggregator.symbols import SymbolTable
from klagg.decimals import parse_column, parse_integers
from klagg.errors import ContractError
from klagg.intervals import DAY_MS, HOUR_MS, MINUTE_MS
from klagg.row_rules import kline_problem, possible_klines
from klagg.wire.entries import Official as OfficialEntry
from klagg.wire.entries import official_of
from klagg.wire.fields import RawFields

LENGTHS = {"1m": MINUTE_MS, "1h": HOUR_MS, "1d": DAY_MS}
"""The kinds of rows that mean something to an aggregator, and how long each is."""

PRICES = ("open", "high", "low", "close")
AMOUNTS = ("volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume")
VALUES = (*PRICES, *AMOUNTS)
OPEN, HIGH, LOW, CLOSE, VOLUME, QUOTE, TAKER, TAKER_QUOTE = range(8)
TIME_MAX = 253_402_300_800_000
"""The year 10000: no kline opens later."""


@dataclass(frozen=True, slots=True)
class OfficialRows:
    """N rows. `cells` is int64 [20, n]: slot, length in ms, open time in exchange ms, number of trades, the mantissas
    of the eight VALUES, and the decimals of each."""

    cells: Ints

    @classmethod
    def none(cls) -> OfficialRows:
        """No rows."""
        return cls(np.zeros((4 + 2 * len(VALUES), 0), np.int64))

    @classmethod
    def joined(cls, parts: Sequence[OfficialRows]) -> OfficialRows:
        """All rows of all parts, each once, sorted by slot, length, open time and number of trades."""
        cells: Ints = np.concatenate([part.cells for part in parts], axis=1)
        return cls(np.unique(cells, axis=1)) if cells.shape[1] > 1 else cls(cells)

    def __len__(self) -> int:
        return int(self.cells.shape[1])

    @property
    def slot(self) -> Ints:
        """The slot of each row [n]; 0 until it is known."""
        slots: Ints = self.cells[0]
        return slots

    @property
    def length(self) -> Ints:
        """The length of each row in ms [n]."""
        lengths: Ints = self.cells[1]
        return lengths

    @property
    def open_time(self) -> Ints:
        """The open time of each row in exchange ms [n]."""
        opens: Ints = self.cells[2]
        return opens

    @property
    def end(self) -> Ints:
        """The first millisecond after each row, exchange time [n]."""
        ends: Ints = self.cells[2] + self.cells[1]
        return ends

    @property
    def trades(self) -> Ints:
        """The number of trades of each row [n]."""
        trades: Ints = self.cells[3]
        return trades

    def select(self, which: Ints | Bools) -> OfficialRows:
        """Some of the rows, by index or mask."""
        return OfficialRows(self.cells[:, which])

    def of_slot(self, slot: int) -> OfficialRows:
        """The same rows for the symbol of that slot."""
        cells = self.cells.copy()
        cells[0] = slot
        return OfficialRows(cells)

    def best(self) -> OfficialRows:
        """Of sorted rows with the same slot, length and open time only the one with most trades, the newest state."""
        keys = self.cells[:3]
        return self.select(np.append((keys[:, 1:] != keys[:, :-1]).any(axis=0), True)) if len(self) else self

    def decimals_needed(self) -> tuple[Ints, Ints, Ints]:
        """The decimals that each row [n] needs for its prices, for its quantities, and for both together.

        Sums may need fewer than what was summed: 0.5 and 0.5 make 1, at prices 3 and 4 the quote volume is 3.5.
        """
        count = len(VALUES)
        mantissas, decimals = self.cells[4 : 4 + count], self.cells[4 + count :]
        needed = [significant_decimals(*each) for each in zip(mantissas, decimals, strict=True)]
        prices: Ints = np.max(needed[OPEN : CLOSE + 1], axis=0)
        quantities = np.maximum(needed[VOLUME], needed[TAKER])
        return prices, quantities, np.maximum(prices + quantities, np.maximum(needed[QUOTE], needed[TAKER_QUOTE]))

    def at_scale(self, symbols: SymbolTable) -> tuple[Ints, Bools]:
        """The eight VALUES [8, n] as mantissas at their symbols' scales, and which rows [n] do not fit 62 bits."""
        count, price, qty = len(VALUES), symbols.price_scale[self.slot], symbols.qty_scale[self.slot]
        scales = (price, price, price, price, qty, price + qty, qty, price + qty)
        found = [at_scale(self.cells[4 + at], self.cells[4 + count + at], scale) for at, scale in enumerate(scales)]
        return np.stack([values for values, _ in found]), np.any([unfit for _, unfit in found], axis=0)


@dataclass(frozen=True, slots=True)
class Answer:
    """The content of one `official` entry: a symbol's rows (their slot is 0), and `nothing`, the range [start, end) in
    exchange ms before the first of them in which the exchange has no rows."""

    symbol: str
    rows: OfficialRows
    nothing: tuple[int, int]
    refused: Sequence[tuple[int, str]] = ()
    """Open times (exchange ms) of rows that cannot be klines, with the reasons: none of `rows`."""


def decode(raw: RawFields) -> Answer:
    """The content of an entry; ContractError if it is none. Rows of it that cannot be klines are refused one by one."""
    entry = official_of(raw)
    length = LENGTHS.get(entry.interval)
    if not entry.symbol or length is None:
        raise ContractError(f"official rows of {entry.symbol!r} at {entry.interval!r} mean nothing to an aggregator")
    if not 0 <= entry.from_ms < entry.to_ms <= TIME_MAX:
        raise ContractError(f"official rows from {entry.from_ms} to {entry.to_ms} cannot be")
    if not entry.count:
        return Answer(entry.symbol, OfficialRows.none(), (entry.from_ms, entry.to_ms))
    opens, trades = (parse_integers(entry.columns[name], entry.count) for name in ("open_time", "trades"))
    if opens[0] < entry.from_ms or opens[-1] >= entry.to_ms or (np.diff(opens) <= 0).any() or (opens % length).any():
        raise ContractError(f"official rows of {entry.symbol} are not where their range and interval put them")
    columns = {name: parse_column(entry.columns[name], entry.count) for name in VALUES}
    good = possible_klines(columns, trades)
    head = np.stack([np.zeros(entry.count, np.int64), np.full(entry.count, length), opens, trades])
    mantissas, decimals = zip(*columns.values(), strict=True)
    rows = OfficialRows(np.concatenate([head, mantissas, decimals]))
    nothing = entry.from_ms, int(opens[0])
    if good.all():
        return Answer(entry.symbol, rows, nothing)
    refused = [(int(opens[at]), _problem(entry, at)) for at in np.flatnonzero(~good).tolist()]
    return Answer(entry.symbol, rows.select(good), nothing, refused)


def _problem(entry: OfficialEntry, at: int) -> str:
    """Why the row of that number cannot be a kline."""
    texts = {name: column.split(b",")[at].decode() for name, column in entry.columns.items()}
    return kline_problem({name: int(text) if name == "trades" else text for name, text in texts.items()})
