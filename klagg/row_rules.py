"""The one rule of what can be a kline, and the one of what can be a trade, wherever a row comes from. Pure and exact.

A kline holds what its own trades can add up to:

1. 0 < low ≤ open, close ≤ high.
2. It has trades exactly if it has volume. Without trades it is flat: its four prices are one, and every sum is 0.
3. Takers bought no more than was traded, in the base and in the quote asset.
4. low × volume ≤ quote volume ≤ high × volume, and the same for what takers bought and for what they sold (the rest).
   A rounding unit is allowed: one of the last place that the sum, or the product of price and volume, is written with.
   A sum of more than 15 digits may have been added up in floats by whoever wrote the file, and is held to 12 digits
   (`FLOAT_SUM_DIGITS`).
5. One trade has one price, and takers bought all of it or nothing.
6. It opens and closes on the grid of its interval.

A trade has an id, a time, a maker flag, fill ids in order, a price and a quantity above 0. Binance also writes rows
that count in no kline and keep the ids contiguous: those of quantity 0 (or of what floats leave of it, see
`without_residue`), among them the placeholder of an aggTrade that was struck out (p = 0, q = 0, f = l = −1), and fills
of a kind that klines leave out.

Integers decide, so the rules hold at any scale. `kline_problem` reads the texts of one row and says what is wrong;
`possible_klines` decides the same for columns of many rows at once. `tests/klagg/test_row_rules.py` holds both against
all official klines that were recorded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final, NamedTuple

import numpy as np

from klagg.arrays import INT64_MAX, Bools, Ints
from klagg.decimals import DIGITS_MAX, checked
from klagg.errors import BadDecimal
from klagg.intervals import Interval
from klagg.kline import DECIMAL_FIELDS, FLOAT_DIGITS_MIN

PRICES: Final = ("open", "high", "low", "close")
SIDES: Final = (("volume", "quote_volume"), ("taker_buy_volume", "taker_buy_quote_volume"))
"""Base and quote volume, of all trades and of the takers' part."""

COIN_MARGINED: Final = 2
"""The symbol type `st` of COIN-M; USDⓈ-M is 1 (Binance USDⓈ-M docs, "Contract Info Stream": 1 = UM, 2 = CM). Only what
is COIN-M by this word is left out: with another `st`, or none, the name decides."""

COUNTING_EXECUTIONS: Final = frozenset({"MARKET", "RPI"})
"""Values of `X` whose fills the exchange counts in klines, as measured on recorded fills and klines."""
LEFT_OUT_EXECUTIONS: Final = frozenset({"INSURANCE_FUND", "ADL", "NA"})
"""Those that it leaves out: they are no market trades (Binance USDⓈ-M docs, "Aggregate Trade Streams": insurance fund
and ADL trades are not aggregated). A word that is in neither set counts: to leave out what is new would lose trades."""

FLOAT_SUM_DIGITS: Final = 12
"""Digits to which a sum is held that may have been added up in floats."""

EXACT_MAX: Final = 10**FLOAT_DIGITS_MIN
"""Floats hold every decimal of 15 digits (IEEE 754, binary64); a longer sum may have been added up in floats."""

STRUCK_OUT: Final = -1
"""The fill ids of an aggTrade that was struck out."""

RESIDUE_MAX: Final = Decimal("1e-12")
"""A number below this is what floats leave of 0. Futures dumps of aggTrades have such quantities
(<https://github.com/binance/binance-public-data/issues/342>)."""

_NUMBER: Final = re.compile(r"[0-9]{1,30}(?:\.[0-9]{1,400})?(?:[eE]-[0-9]{1,3})?", re.ASCII)
_EXPONENT: Final = frozenset("eE")
_FITS: Final = 1 << 62
_DECIMAL: Final = re.compile(r"[0-9]{1,30}(?:\.[0-9]{1,30})?(?:[eE][-+]?[0-9]{1,2})?", re.ASCII)

Column = tuple[Ints, Ints]
"""N decimals as (mantissas, decimals), both int64 [n]: value = mantissa × 10^−decimals, decimals as written."""


def kline_problem(
    values: Mapping[str, str | int | None],
    *,
    bars: Interval | None = None,
    open_ms: int = 0,
    close_ms: int | None = None,
) -> str:
    """Why a row cannot be a kline, as a clause of a sentence; empty if it can.

    `values` are the nine values by the names of `klagg.kline.NINE_VALUES`: decimals as texts, maybe with an exponent.
    What a source does not have is None or left out, and no clause speaks of it. With `bars`, `open_ms` and `close_ms`
    (UTC ms; None: the source has none) must be on the grid of that interval.
    """
    if bars is not None:
        if bars.open_time(open_ms) != open_ms:
            return f"open time {open_ms} is not where a bar of {bars.name} opens"
        if close_ms not in {None, bars.close_time(open_ms)}:
            return f"close time {close_ms} is not that of a bar of {bars.name} which opens at {open_ms}"
    trades = values.get("trades")
    if trades is not None and (type(trades) is not int or not 0 <= trades <= INT64_MAX):
        return f"trade count {trades!r} cannot be"
    parts: dict[str, tuple[int, int]] = {}
    for name in DECIMAL_FIELDS:
        value = values.get(name)
        if value is None and name not in {*PRICES, "volume"}:
            continue
        if not isinstance(value, str) or not _DECIMAL.fullmatch(value):
            return f"{name.replace('_', ' ')} {value!r} is not a decimal number"
        parts[name] = _parted(value)
    return _broken_clause(parts, trades).format(**values)


def possible_klines(columns: Mapping[str, Column], trades: Ints) -> Bools:
    """Which rows of N (boolean [n]) can be klines by the rules 1 to 5. `columns` holds all eight decimals by name."""
    good = _surely_klines(columns, trades) if _fit(columns) else np.zeros(len(trades), np.bool_)
    for row in np.flatnonzero(~good).tolist():
        parts = {name: (int(columns[name][0][row]), int(columns[name][1][row])) for name in DECIMAL_FIELDS}
        good[row] = trades[row] >= 0 and not _broken_clause(parts, int(trades[row]))
    return good


def _parted(text: str) -> tuple[int, int]:
    """A decimal text as (mantissa, decimals)."""
    if "e" in text or "E" in text:
        text = format(Decimal(text), "f")
    whole, _, fraction = text.partition(".")
    return int(whole + fraction), len(fraction)


def _broken_clause(parts: Mapping[str, tuple[int, int]], trades: int | None) -> str:
    """The first of the rules 1 to 5 that a row breaks, as a sentence with the names of the values in it; or empty.

    `parts` are the decimals as (mantissa, decimals): this is the definition, in integers of any size.
    """
    scale = max(parts[name][1] for name in PRICES)
    opened, high, low, close = (parts[name][0] * _ten(scale - parts[name][1]) for name in PRICES)
    if low <= 0:
        return "low {low} is not above 0"
    if not low <= min(opened, close) <= max(opened, close) <= high:
        return "open {open}, high {high}, low {low}, close {close} cannot be prices of one bar"
    volume = parts["volume"][0]
    if trades is not None and (trades == 0) != (volume == 0):
        return "there are {trades} trades and a volume of {volume}"
    if volume == 0 and high != low:
        return "there is no trade, and high {high} is not low {low}"
    for part, whole in zip(SIDES[1], SIDES[0], strict=True):
        if part in parts and whole in parts and _is_above(parts[part], parts[whole]):
            return f"{part.replace('_', ' ')} {{{part}}} is more than {whole.replace('_', ' ')} {{{whole}}}"
    for base, quote in SIDES:
        if base in parts and quote in parts and not _is_sum((low, high, scale), parts[base], parts[quote]):
            return (
                f"{quote.replace('_', ' ')} {{{quote}}} is not low {{low}} to high {{high}} times "
                f"{base.replace('_', ' ')} {{{base}}}"
            )
    if all(name in parts for name in (*SIDES[0], *SIDES[1])) and not _is_rest((low, high, scale), parts):
        return (
            "what takers sold, volume {volume} less {taker_buy_volume} and quote volume {quote_volume} less "
            "{taker_buy_quote_volume}, is at no price from low {low} to high {high}"
        )
    if trades == 1:
        if high != low:
            return "there is one trade, and high {high} is not low {low}"
        taken = parts.get("taker_buy_volume", (0, 0))
        if taken[0] != 0 and _is_above(parts["volume"], taken):
            return "there is one trade, and takers bought {taker_buy_volume} of {volume}"
    return ""


def _is_rest(prices: tuple[int, int, int], parts: Mapping[str, tuple[int, int]]) -> bool:
    """Whether what takers sold is a sum as `_is_sum` has it; both sums that it is the difference of may be rounded."""
    base, quote = (_difference(parts[whole], parts[part]) for whole, part in zip(*SIDES, strict=True))
    least, most, found, scale = _at_one_scale(prices, base, quote)
    bases, quotes = ([parts[side[place]] for side in SIDES] for place in (0, 1))
    slack = 2 * _ten(scale - min(prices[2] + min(each[1] for each in bases), *(each[1] for each in quotes)))
    if max(each[0] for each in (*bases, *quotes)) >= EXACT_MAX:
        whole, whole_scale = quotes[0]
        slack += 2 * (whole * _ten(scale - whole_scale) // 10**FLOAT_SUM_DIGITS + 1)
    return least - slack <= found <= most + slack


def _difference(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    scale = max(one[1], other[1])
    return one[0] * _ten(scale - one[1]) - other[0] * _ten(scale - other[1]), scale


def _ten(power: int) -> int:
    found: int = 10**power
    return found


def _is_above(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[0] * _ten(other[1]) > other[0] * _ten(one[1])


def _is_sum(prices: tuple[int, int, int], base: tuple[int, int], quote: tuple[int, int]) -> bool:
    """Whether a quote volume is `base` times prices between low and high, give or take a rounding unit.

    `prices` are the mantissas of low and high, and their scale.
    """
    if base[0] == 0:
        return quote[0] == 0
    least, most, found, scale = _at_one_scale(prices, base, quote)
    slack = _ten(scale - min(prices[2] + base[1], quote[1]))
    if max(base[0], quote[0]) >= EXACT_MAX:
        slack += most // 10**FLOAT_SUM_DIGITS
    return least - slack <= found <= most + slack


def _at_one_scale(
    prices: tuple[int, int, int], base: tuple[int, int], quote: tuple[int, int]
) -> tuple[int, int, int, int]:
    """`base` times low, `base` times high, and `quote`, as integers of one scale, and that scale."""
    low, high, price_scale = prices
    product_scale = price_scale + base[1]
    scale = max(product_scale, quote[1])
    product = base[0] * _ten(scale - product_scale)
    return low * product, high * product, quote[0] * _ten(scale - quote[1]), scale


def _fit(columns: Mapping[str, Column]) -> bool:
    """Whether the values of all rows, at common scales, and their products fit 62 bits."""
    if not len(columns["low"][0]):
        return False
    tops = []
    for names in (PRICES, *zip(*SIDES, strict=True)):
        least = min(int(columns[name][1].min()) for name in names)
        scale = max(int(columns[name][1].max()) for name in names)
        most = max(int(columns[name][0].max()) for name in names)
        tops.append((max(most, 1) * _ten(scale - least), scale))
    (price, price_scale), (base, base_scale), (quote, quote_scale) = tops
    scale = max(price_scale + base_scale, quote_scale)
    product = price * base * _ten(scale - price_scale - base_scale)
    return max(product, quote * _ten(scale - quote_scale)) < _FITS


def _surely_klines(columns: Mapping[str, Column], trades: Ints) -> Bools:
    """Rows that break no rule, and need no rounding unit for it; that all values fit is known."""
    at: dict[str, Ints] = {}
    scales = []
    for names in (PRICES, *zip(*SIDES, strict=True)):
        scales.append(max(int(columns[name][1].max()) for name in names))
        at |= {name: columns[name][0] * 10 ** (scales[-1] - columns[name][1]) for name in names}
    price_scale, base_scale, quote_scale = scales
    scale = max(price_scale + base_scale, quote_scale)
    low, high, idle = at["low"], at["high"], trades == 0
    good: Bools = (low > 0) & (trades >= 0) & (idle == (at["volume"] == 0)) & (~idle | (low == high))
    for name in ("open", "close"):
        good &= (low <= at[name]) & (at[name] <= high)
    for part, whole in zip(SIDES[1], SIDES[0], strict=True):
        good &= at[part] <= at[whole]
    sums = [(at[base], at[quote]) for base, quote in SIDES]
    (volume, quote_volume), (bought, quote_bought) = sums
    for amount, paid in (*sums, (volume - bought, quote_volume - quote_bought)):
        base, found = amount * 10 ** (scale - price_scale - base_scale), paid * 10 ** (scale - quote_scale)
        good &= (low * base <= found) & (found <= high * base)
    good &= (trades != 1) | ((low == high) & ((bought == 0) | (bought == volume)))
    return good


class TradeProblem(NamedTuple):
    """What is wrong with a row of a trade: `what` is price, quantity or number, `reason` a clause of a sentence."""

    what: str
    reason: str


PRICE: Final = "price"
QUANTITY: Final = "quantity"
NUMBER: Final = "number"


def trade_problem(
    trade_id: Any, price: Any, qty: Any, first: Any, last: Any, time_ms: Any, maker: Any, *, counted_kind: bool = True
) -> TradeProblem | None:
    """What is wrong with a trade (an aggTrade, or a fill whose `first` and `last` are its id); None if it can be one.

    Values are as the exchange sends them: decimals as texts, ids and the time (exchange ms) as integers, `maker` as a
    bool. `counted_kind` is False for a fill of a kind that klines leave out. A trade that passes counts exactly if
    `trade_counts` says so.
    """
    for what, value in ((PRICE, price), (QUANTITY, qty)):
        if not isinstance(value, str):
            return TradeProblem(what, f"not a text: {shown(value)}")
        try:
            checked(value)
        except BadDecimal as bad:
            return TradeProblem(what, str(bad)[:100])
    counts = trade_counts(qty, counted_kind=counted_kind)
    if counts and is_zero(price):
        return TradeProblem(PRICE, "zero")
    if any(type(each) is not int or not 0 <= each <= INT64_MAX for each in (trade_id, time_ms)):
        return TradeProblem(NUMBER, "an id or the time is not a whole number from 0 to 2^63 - 1")
    struck_out = not counts and first == last == STRUCK_OUT
    if any(type(each) is not int or not 0 <= each <= INT64_MAX for each in (first, last)) and not struck_out:
        return TradeProblem(NUMBER, "an id or the time is not a whole number from 0 to 2^63 - 1")
    if type(maker) is not bool:
        return TradeProblem(NUMBER, "m is neither true nor false")
    if first > last:
        return TradeProblem(NUMBER, "f is above l")
    return None


def is_coin_margined(event: Mapping[str, Any]) -> bool:
    """Whether an event says of itself that it is of COIN-M."""
    kind = event.get("st")
    return type(kind) is int and kind == COIN_MARGINED


def is_counted_kind(execution: object, price: object = "") -> bool:
    """Whether klines count fills of this kind (`X`; None: older than the field, when all were market trades). A fill of
    a new kind that has no price (zeros) is none of a market."""
    if isinstance(execution, str) and execution in LEFT_OUT_EXECUTIONS:
        return False
    priceless = isinstance(price, str) and bool(price) and is_zero(price)
    return execution is None or not is_new_execution(execution) or not priceless


def is_new_execution(execution: object) -> bool:
    """Whether nobody has seen this `X`."""
    return not isinstance(execution, str) or execution not in COUNTING_EXECUTIONS | LEFT_OUT_EXECUTIONS


def trade_counts(qty: str, *, counted_kind: bool = True) -> bool:
    """Whether klines count a trade of this quantity; one that does not keeps the ids contiguous, and nothing else."""
    return counted_kind and not is_zero(qty)


def without_residue(value: Any) -> Any:
    """A price or quantity as it came, but "0" for what is nothing: a zero that is written with an exponent or without
    end, and the residue that a difference of floats leaves of one (`5.5e-17`). No step size is near `RESIDUE_MAX`."""
    if not isinstance(value, str) or _NUMBER.fullmatch(value) is None:
        return value
    number = Decimal(value)
    is_held = len(value) - ("." in value) <= DIGITS_MAX and not _EXPONENT.intersection(value)
    return value if number >= RESIDUE_MAX or (is_held and number == 0) else "0"


def is_zero(text: str) -> bool:
    """Whether a checked decimal is 0."""
    return not text.strip("0.")


def shown(value: Any) -> str:
    """A value for a sentence: short, and without a look into what may be nested deeply."""
    if value is None or isinstance(value, str | int | float):
        return repr(value)[:40]
    return "an object" if isinstance(value, dict) else "an array"
