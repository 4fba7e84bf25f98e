"""From `trades` entries to arrays: many entries are joined column by column and read by numpy at once, exactly.

No float and no Python loop per trade: see `klagg.decimals.parse_column` for how decimals become integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from aggregator.arrays import Bools, Ints
from klagg.decimals import DIGITS_MAX, POWERS, parse_column, parse_integers
from klagg.errors import ContractError
from klagg.row_rules import STRUCK_OUT
from klagg.wire.entries import AGG_IDS, TRADE_COLUMNS, TRADE_IDS
from klagg.wire.fields import RawFields, integer_of, text_of, upgraded

_COLUMNS = tuple(name.encode() for name in TRADE_COLUMNS)
_COLUMN_BYTES_MAX = 16 << 20
QUOTE_MAX = 2.0**62
"""One trade's quote value must stay below this. The check is in float64, whose error is far smaller than the margin."""

FILLS_MAX = 1_000_000_000
"""More fills in one trade are nonsense; below it no sum of fill counts that can gather comes near 64 bits."""


@dataclass(slots=True)
class DecodedTrades:
    """N trades as written in `trades` entries, in columns: their symbols have no slots yet, their values no scale.

    `names` are UTF-8. int64 [n] each: `id`; `price` and `qty`, mantissas at their own `price_decimals` and
    `qty_decimals`; `first` and `last`, the fill ids; `time` in exchange ms. Boolean [n]: `maker`, whether the buyer is
    the maker; `counts`, whether the trade counts in klines; `agg`, whether `id` is an aggTrade id (else a fill id).
    """

    names: list[bytes]
    id: Ints
    price: Ints
    price_decimals: Ints
    qty: Ints
    qty_decimals: Ints
    first: Ints
    last: Ints
    time: Ints
    maker: Bools
    counts: Bools
    agg: Bools

    def __len__(self) -> int:
        return len(self.id)


@dataclass(slots=True)
class Trades:
    """N trades of slots, as integers at their symbols' scales: what the ledger admits and the fold takes.

    int64 [n] each: `slot`; `id`, that of the aggTrade or of the fill; `price` and `qty`, mantissas at the symbol's
    price and quantity scale; `quote`, price × qty, at the sum of both scales; `first` and `last`, the fill ids; `time`
    in exchange ms. Boolean [n]: `maker`, whether the buyer is the maker; `agg`, whether `id` is an aggTrade id.

    Until they are admitted, `counts` says which of them count in klines, and `unfit` which have a value that does not
    fit 64 bits. None stands for all, and for none; of admitted trades both are None.
    """

    slot: Ints
    id: Ints
    price: Ints
    qty: Ints
    quote: Ints
    first: Ints
    last: Ints
    time: Ints
    maker: Bools
    agg: Bools
    counts: Bools | None = None
    unfit: Bools | None = None

    @classmethod
    def none(cls) -> Trades:
        """No trades."""
        return cls(*(np.zeros(0, np.bool_ if name in TRADE_FLAGS else np.int64) for name in TRADE_ARRAYS))

    @classmethod
    def joined(cls, parts: Sequence[Trades]) -> Trades:
        """All trades of all parts (at least one, each admitted), in order."""
        if len(parts) == 1:
            return parts[0]
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in TRADE_ARRAYS))

    def __len__(self) -> int:
        return len(self.slot)

    def select(self, which: Ints | Bools) -> Trades:
        """Some of the trades, by index or mask."""
        arrays = (getattr(self, name) for name in TRADE_ARRAYS)
        if which.dtype != np.bool_:
            chosen = Trades(*(np.take(array, which) for array in arrays))
        else:
            chosen = Trades(*(array[which] for array in arrays))
        chosen.counts = None if self.counts is None else self.counts[which]
        chosen.unfit = None if self.unfit is None else self.unfit[which]
        return chosen


TRADE_ARRAYS = ("slot", "id", "price", "qty", "quote", "first", "last", "time", "maker", "agg")
"""The arrays of admitted trades, in the order of the fields of Trades."""
TRADE_FLAGS = ("maker", "agg")
"""Those that are booleans."""


def check_entry(raw: RawFields) -> int:
    """The number of trades in a `trades` entry; ContractError unless every column has exactly that many values."""
    raw = upgraded(raw)
    count = integer_of(raw, "n")
    if text_of(raw, "ids") not in (AGG_IDS, TRADE_IDS):
        raise ContractError(f"a trades entry has ids {raw[b'ids']!r}")
    for name in _COLUMNS:
        column = raw.get(name)
        if column is None:
            raise ContractError(f"a trades entry lacks the column {name.decode()}")
        if count < 1 or column.count(b",") != count - 1 or len(column) > _COLUMN_BYTES_MAX:
            raise ContractError(f"the column {name.decode()} of a trades entry does not hold {count} values")
    return count


def decode(entries: Sequence[RawFields]) -> DecodedTrades:
    """The trades of checked entries, in order; ContractError if a value is not what its column holds.

    Trades of quantity 0 count in no bar, whatever their entry says (`klagg.row_rules`)."""
    counts = [integer_of(raw, "n") for raw in entries]
    total = sum(counts)
    joined = {name: b",".join([raw[name] for raw in entries]) for name in _COLUMNS}
    price, price_decimals = parse_column(joined[b"price"], total)
    qty, qty_decimals = parse_column(joined[b"qty"], total)
    integers = {name: parse_integers(joined[name], total) for name in (b"id", b"first", b"last", b"time")}
    counted = _flags(joined[b"counts"], total) & (qty > 0)
    if (counted & (price == 0)).any():
        raise ContractError("a trades entry holds a trade that counts at a price of 0")
    if min(int(integers[name].min()) for name in (b"id", b"time")) < 0:
        raise ContractError("a trades entry holds a negative id or time")
    struck_out = ~counted & (integers[b"first"] == STRUCK_OUT) & (integers[b"last"] == STRUCK_OUT)
    if ((integers[b"first"] < 0) & ~struck_out).any():
        raise ContractError("a trades entry holds a negative fill id")
    fills = integers[b"last"] - integers[b"first"]
    if int(fills.min()) < 0:
        raise ContractError("a trades entry holds a trade whose last fill id is before its first")
    if int(fills.max()) >= FILLS_MAX:
        raise ContractError(f"a trades entry holds a trade of more than {FILLS_MAX} fills")
    if not joined[b"symbol"].isascii():
        _check_utf8(joined[b"symbol"])
    names = joined[b"symbol"].split(b",")
    if b"" in names:
        raise ContractError("a trades entry holds an empty symbol")
    agg = np.repeat(np.array([raw[b"ids"] == AGG_IDS.encode() for raw in entries]), counts)
    return DecodedTrades(
        names,
        integers[b"id"],
        price,
        price_decimals,
        qty,
        qty_decimals,
        integers[b"first"],
        integers[b"last"],
        integers[b"time"],
        _flags(joined[b"maker"], total),
        counted,
        agg,
    )


def joined(parts: Sequence[DecodedTrades]) -> DecodedTrades:
    """All trades of all parts (at least one), in order."""
    if len(parts) == 1:
        return parts[0]
    arrays = (np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(DecodedTrades)[1:])
    return DecodedTrades([name for part in parts for name in part.names], *arrays)


def _check_utf8(text: bytes) -> None:
    try:
        text.decode()
    except UnicodeDecodeError:
        raise ContractError("a trades entry holds a symbol that is not UTF-8") from None


def _flags(text: bytes, count: int) -> Bools:
    """A column of 0 and 1."""
    raw = np.frombuffer(text, np.uint8)
    if len(raw) != 2 * count - 1:
        raise ContractError("a column of flags holds more than 0 and 1")
    values = raw[::2] - ord("0")
    if (values > 1).any():
        raise ContractError("a column of flags holds more than 0 and 1")
    return values.astype(np.bool_)


def significant_decimals(mantissas: Ints, decimals: Ints) -> Ints:
    """How many decimals each value needs once trailing zeros are dropped; zero needs none.

    `mantissas` at their own `decimals`, int64 [n] each; the result likewise.
    """
    values, needed = mantissas.copy(), decimals.copy()
    needed[values == 0] = 0
    for _ in range(DIGITS_MAX):
        droppable = (needed > 0) & (values % 10 == 0)
        if not droppable.any():
            break
        values[droppable] //= 10
        needed[droppable] -= 1
    return needed


def at_scale(mantissas: Ints, decimals: Ints, scales: Ints) -> tuple[Ints, Bools]:
    """Mantissas at other scales, and which of them do not fit (their value is meaningless). All arrays are [n].

    `mantissas` are at their own `decimals` and come back at `scales`. A value does not fit that needs more than 62
    bits, or more decimals than its scale has.
    """
    if (scales == decimals).all():  # at most DIGITS_MAX digits: below 62 bits
        return mantissas, np.zeros(len(mantissas), np.bool_)
    shift = scales - decimals
    up = np.maximum(shift, 0)
    too_large = mantissas > (1 << 62) // POWERS[np.minimum(up, DIGITS_MAX)]
    values = mantissas * POWERS[np.minimum(up, DIGITS_MAX)]
    unfit = too_large | ((up > DIGITS_MAX) & (mantissas > 0))
    if (shift < 0).any():
        dropped = POWERS[np.maximum(-shift, 0)]
        values = np.where(shift < 0, mantissas // dropped, values)
        unfit |= (shift < 0) & (mantissas % dropped != 0)
    return values, unfit


def quotes_of(price: Ints, qty: Ints) -> tuple[Ints, Bools]:
    """Price × quantity (mantissas [n], the product at the sum of their scales), and which products do not fit 62 bits
    (their value is meaningless)."""
    if int(price.max(initial=0)) * int(qty.max(initial=0)) < QUOTE_MAX:
        return price * qty, np.zeros(len(price), np.bool_)
    too_large = price.astype(np.float64) * qty.astype(np.float64) >= QUOTE_MAX
    with np.errstate(over="ignore"):
        return price * qty, too_large
