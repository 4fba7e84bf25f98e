"""The symbols of a synthetic market: names, scales, prices, and how often each trades. A pure function of the seed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from klagg.binance.serving.payloads import unit
from klagg.simulator.market import ContractListing

MINUTE_MS = 60_000
HOUR_MS = 3_600_000

_NAMES = (
    "BTC ETH SOL 币安人生 XRP DOGE BNB ADA AVAX LINK SUI LTC DOT TRX BCH NEAR APT ARB OP FIL ATOM ETC XLM INJ AAVE UNI "
    "ICP HBAR TON SEI TIA WLD ORDI FET RENDER JUP ENA ONDO 1000PEPE 1000SHIB"
)
_BASES = tuple(_NAMES.split())
_QUOTE = "USDT"

# price digits, tick in units of the last digit, quantity digits, price: the first symbols look like their namesakes.
_KNOWN_SCALES = ((2, 10, 3, 85_000.0), (2, 1, 3, 3_000.0), (4, 100, 2, 140.0), (5, 1, 0, 0.24))

_QUIET_SHARE = 0.2
_QUIET_PER_MINUTE = 0.4
_ZIPF = 1.05
_NOTIONAL = 300.0
_WAVE_PERIODS_MS = np.array([7.0, 43.0, 257.0, 1_531.0, 13_007.0]) * MINUTE_MS
_WAVE_HEIGHTS = np.array([0.0006, 0.0015, 0.005, 0.015, 0.06])

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class SymbolModel:
    """One symbol. A "unit" is the last digit of its prices or quantities; rates are aggregate trades.

    `per_hour` are those that come at random. `beats` more come in every minute at equal distances: the floor.
    """

    index: int
    name: str
    price_precision: int
    quantity_precision: int
    tick_units: int
    base_price_units: float
    qty_units: float
    per_hour: float
    phase: float
    wave_phases: NDArray[np.float64]
    beats: int = 0

    def beat_times(self) -> Ints:
        """When the floor's trades happen, in ms since a minute's begin, shape (beats,); each symbol has its own phase.

        The distance is the same within a minute and from one minute to the next.
        """
        return ((np.arange(self.beats) + self.phase) * (MINUTE_MS / max(self.beats, 1))).astype(np.int64)

    def price_units(self, times_ms: Ints) -> NDArray[np.float64]:
        """The smooth price at each time, shape of `times_ms`, in units."""
        angles = 2 * np.pi * times_ms[:, None] / _WAVE_PERIODS_MS + self.wave_phases
        return np.asarray(self.base_price_units * np.exp(np.sin(angles) @ _WAVE_HEIGHTS), np.float64)

    def listing(self, listed_ms: int) -> ContractListing:
        """Its exchangeInfo."""
        return ContractListing(
            symbol=self.name,
            base=self.name.removesuffix(_QUOTE),
            quote=_QUOTE,
            price_precision=self.price_precision,
            quantity_precision=self.quantity_precision,
            tick_size=decimal_text(self.tick_units, self.price_precision),
            step_size=unit(self.quantity_precision),
            onboard_ms=listed_ms,
        )


def build_models(symbols: int, per_second: float, seed: int, floor_s: float | None = None) -> tuple[SymbolModel, ...]:
    """`symbols` models that trade `per_second` aggregate trades a second together, the first the busiest.

    With `floor_s` (above 0, at most 60) each trades at least once in so many seconds; those trades are part of the
    rate. Raises ValueError if the rate is too low for them.
    """
    beats = 0 if floor_s is None else math.ceil(60 / floor_s)
    floor_per_second = symbols * beats / 60
    if not floor_per_second < per_second:
        raise ValueError(
            f"A floor of {floor_s:g} s for {symbols} symbols needs more than {floor_per_second:g} trades a second, "
            f"not {per_second:g}."
        )
    rates = _rates_per_hour(symbols, per_second - floor_per_second)
    return tuple(_model(index, float(rates[index]), seed, beats) for index in range(symbols))


def _rates_per_hour(symbols: int, per_second: float) -> NDArray[np.float64]:
    """A few busy symbols, many slow ones, and a last fifth that often has no trade in a minute."""
    total = per_second * 3600
    quiet = int(symbols * _QUIET_SHARE)
    quiet_rate = min(_QUIET_PER_MINUTE * 60, _QUIET_SHARE * total / symbols)
    weights = np.arange(1, symbols - quiet + 1) ** -_ZIPF
    busy = weights / weights.sum() * (total - quiet * quiet_rate)
    return np.concatenate([busy, np.full(quiet, quiet_rate)])


def _model(index: int, per_hour: float, seed: int, beats: int) -> SymbolModel:
    rng = np.random.default_rng((seed, 0, index))
    if index < len(_KNOWN_SCALES):
        price_precision, tick_units, quantity_precision, price = _KNOWN_SCALES[index]
        base_units = price * 10**price_precision
    else:
        price_precision, quantity_precision = 1 + index % 7, index % 4
        tick_units = int(rng.choice([1, 1, 1, 5, 10]))
        base_units = float(10 ** rng.uniform(3.8, 6.0))
    price = base_units / 10**price_precision
    return SymbolModel(
        index=index,
        name=(_BASES[index] if index < len(_BASES) else f"SYM{index - len(_BASES) + 1:03}") + _QUOTE,
        price_precision=price_precision,
        quantity_precision=quantity_precision,
        tick_units=tick_units,
        base_price_units=base_units,
        qty_units=min(max(_NOTIONAL / price * 10**quantity_precision, 2.0), 50_000.0),
        per_hour=per_hour,
        phase=float(rng.random()),
        wave_phases=rng.uniform(0, 2 * np.pi, len(_WAVE_PERIODS_MS)),
        beats=beats,
    )


class Schedule:
    """How many aggregate trades each symbol has in each minute, and the id of each minute's first.

    An hour's count follows from its number alone (a straight line, floored), so ids at any time need no history; its
    minutes share the count at random, and each has the floor's trades beside them. Ids begin at 1 with the listing.
    """

    def __init__(self, models: tuple[SymbolModel, ...], seed: int, listed_ms: int) -> None:
        """`listed_ms` is floored to the hour: no trade happens before it."""
        self._models = models
        self._seed = seed
        self.listed_hour = listed_ms // HOUR_MS
        self._within_hour = lru_cache(maxsize=32_768)(self._draw_hour)

    def trades_before_hour(self, index: int, hour: int) -> int:
        """Aggregate trades of the symbol since its listing, up to the beginning of `hour`."""
        model = self._models[index]
        hours = max(hour - self.listed_hour, 0)
        return int(model.per_hour * hours + model.phase) + 60 * model.beats * hours

    def minute(self, index: int, minute: int) -> tuple[int, int]:
        """(id of the first aggregate trade, count) of a minute since 1970."""
        hour, place = divmod(minute, 60)
        within = self._within_hour(index, hour)
        start = int(within[place])
        return self.trades_before_hour(index, hour) + start + 1, int(within[place + 1]) - start

    def minute_of_id(self, index: int, agg_id: int) -> int:
        """The minute in which the aggregate trade `agg_id` (≥ 1) happens."""
        model = self._models[index]
        hour = self.listed_hour + max(int((agg_id - 1 - model.phase) / (model.per_hour + 60 * model.beats)) - 1, 0)
        while self.trades_before_hour(index, hour + 1) < agg_id:
            hour += 1
        rank = agg_id - 1 - self.trades_before_hour(index, hour)
        return hour * 60 + int(np.searchsorted(self._within_hour(index, hour), rank, side="right")) - 1

    def last_minute_with_trades(self, index: int, before_minute: int) -> int | None:
        """The latest minute before `before_minute` in which the symbol trades; None when there was none yet."""
        last_id = self.minute(index, before_minute)[0] - 1
        return self.minute_of_id(index, last_id) if last_id >= 1 else None

    def _draw_hour(self, index: int, hour: int) -> Ints:
        """Trades before each minute of the hour, shape (61,)."""
        if hour < self.listed_hour:
            return np.zeros(61, np.int64)
        beats = self._models[index].beats
        total = self.trades_before_hour(index, hour + 1) - self.trades_before_hour(index, hour) - 60 * beats
        before = beats * np.arange(61, dtype=np.int64)
        if total == 0:
            return before
        rng = np.random.default_rng((self._seed, 1, index, hour))
        # The busier a symbol, the steadier: its share of the whole flow must not make the whole flow jump.
        per_minute = self._models[index].per_hour / 60
        shape = 2_500.0 if per_minute >= 60 else 20.0 if per_minute >= 5 else 1.0
        weights = rng.gamma(shape, size=60)
        before[1:] += np.cumsum(rng.multinomial(total, weights / weights.sum()))
        return before


def decimal_text(units: int, precision: int) -> str:
    """A number of units as a decimal with `precision` digits after the point."""
    if precision == 0:
        return str(units)
    digits = str(units).zfill(precision + 1)
    return f"{digits[:-precision]}.{digits[-precision:]}"
