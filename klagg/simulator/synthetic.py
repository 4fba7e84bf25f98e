"""A seeded market of any number of symbols, as a `MarketSource`: any minute of it can be made anew at any time.

What happens at an exchange time follows from (seed, symbols, rate, floor) and that time alone. Nothing is stored but
caches of bounded size, so a market that was stopped goes on with the ids it would have had.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from klagg.simulator.bars import Bar, empty_bar
from klagg.simulator.market import ContractListing, MarketTrade
from klagg.simulator.merged import AGG_DELAY_MS, FILL_DELAY_MS, MergedAggregates, MergedFills
from klagg.simulator.synthetic_minute import MinuteTrades, generate_minute, minute_bar
from klagg.simulator.synthetic_model import HOUR_MS, MINUTE_MS, TradeSchedule, build_models

LISTED_MS = 1_767_225_600_000
"""2026-01-01: when a synthetic market's symbols are listed unless told otherwise."""

STRADDLE_SHARE = 0.002
"""The share of a symbol's minutes at whose end an aggregate trade fills into the next one: about three a day."""

_CACHED_ROWS_MAX = 500_000
_HISTORY_TRADES_MAX = 50_000_000
_RATE_MAX = 20_000
_HISTORY_MS_MAX = 86_400_000
_FLOOR_S_MIN, _FLOOR_S_MAX = 1, 60


class SyntheticMarket:
    """A seeded synthetic market."""

    def __init__(
        self,
        symbols: int = 20,
        rate: float = 200.0,
        seed: int = 1,
        *,
        floor_s: float | None = None,
        listed_ms: int = LISTED_MS,
        straddle_share: float = STRADDLE_SHARE,
        history_ms: int | None = None,
    ) -> None:
        """`symbols` (≥ 1) with `rate` aggregate trades a second in total (> 0).

        `floor_s` (1 to 60): every symbol trades at least once in so many seconds, as part of the rate; without it the
        quietest do so once in 150 s on average. `listed_ms` is floored to the hour. `straddle_share` (0 to 1): see
        `generate_minute`; 0 makes klines of aggregate trades equal those of fills. `history_ms`: how far back klines
        are told (the default is a day, or less where that would be more than 50 million trades). Raises ValueError
        with a sentence for values out of range.
        """
        if symbols < 1:
            raise ValueError(f"A market needs at least 1 symbol, not {symbols}.")
        if not 0 < rate <= _RATE_MAX:
            raise ValueError(f"The rate must lie between 0 and {_RATE_MAX:,} trades a second, not {rate}.")
        if seed < 0:
            raise ValueError(f"The seed must not be negative: {seed}.")
        if floor_s is not None and not _FLOOR_S_MIN <= floor_s <= _FLOOR_S_MAX:
            raise ValueError(f"The floor must lie between {_FLOOR_S_MIN} and {_FLOOR_S_MAX} seconds, not {floor_s:g}.")
        if not 0 <= straddle_share <= 1:
            raise ValueError(f"The share of minutes with an edge must lie between 0 and 1, not {straddle_share:g}.")
        self._describe: dict[str, object] = {"source": "synthetic", "symbols": symbols, "rate": rate, "seed": seed}
        if floor_s is not None:
            self._describe["floor"] = floor_s
        if straddle_share != STRADDLE_SHARE:
            self._describe["edges"] = straddle_share
        self._seed = seed
        self._straddle_share = straddle_share
        self._models = build_models(symbols, rate, seed, floor_s)
        self._index = {model.name: model.index for model in self._models}
        self._schedule = TradeSchedule(self._models, seed, listed_ms)
        self._listed_ms = listed_ms // HOUR_MS * HOUR_MS
        self._listings = tuple(model.listing(self._listed_ms) for model in self._models)
        affordable_ms = int(_HISTORY_TRADES_MAX / rate) * 1000
        self._history_ms = min(_HISTORY_MS_MAX, affordable_ms) if history_ms is None else history_ms
        self._minutes = _MinuteCache(_CACHED_ROWS_MAX)
        self._closed_minute_bar = lru_cache(maxsize=65_536)(self._minute_bar)
        self._aggregates = MergedAggregates(self._models, self._generate)
        self._fills = MergedFills(self._models, self._generate)
        self._fills_wanted = False

    def describe(self) -> Mapping[str, object]:
        """What is played."""
        return self._describe

    def span_ms(self) -> None:
        """It never ends."""

    def listings(self, now_ms: int) -> Sequence[ContractListing]:
        """All symbols, from their listing on."""
        return self._listings if now_ms >= self._listed_ms else ()

    def prepare(self, now_ms: int) -> None:
        """Makes the coming minute bit by bit while this one is played."""
        self._aggregates.prepare(now_ms)
        if self._fills_wanted:
            self._fills.prepare(now_ms)

    def aggregates(self, after_ms: int, until_ms: int) -> Sequence[MarketTrade]:
        """As `MarketSource`."""
        return self._aggregates.between(after_ms, until_ms)

    def fills(self, after_ms: int, until_ms: int) -> Sequence[MarketTrade]:
        """As `MarketSource`."""
        self._fills_wanted = True
        return self._fills.between(after_ms, until_ms)

    def has_fills(self, symbol: str) -> bool:
        """Every symbol has fills."""
        return True

    def aggregates_from(self, symbol: str, from_id: int, limit: int, now_ms: int) -> Sequence[MarketTrade]:
        """As `MarketSource`."""
        index = self._index[symbol]
        wanted = max(from_id, 1)
        last_minute = (now_ms - AGG_DELAY_MS) // MINUTE_MS
        if wanted >= sum(self._schedule.minute(index, last_minute)):
            return []
        found: list[MarketTrade] = []
        for minute in range(self._schedule.minute_of_id(index, wanted), last_minute + 1):
            block = self._minute(index, minute)
            start = max(wanted - block.agg_first_id, 0)
            found += self._aggregates.of(index, block, slice(start, start + limit - len(found)))
            if len(found) == limit:
                break
        return [trade for trade in found if trade.event_ms <= now_ms]

    def aggregates_between(
        self, symbol: str, start_ms: int, end_ms: int, limit: int, now_ms: int, *, newest: bool
    ) -> Sequence[MarketTrade]:
        """As `MarketSource`."""
        index = self._index[symbol]
        end_ms = min(end_ms, now_ms - AGG_DELAY_MS)
        minutes = range(max(start_ms, self._listed_ms) // MINUTE_MS, end_ms // MINUTE_MS + 1)
        found: list[MarketTrade] = []
        for minute in reversed(minutes) if newest else minutes:
            if self._schedule.minute(index, minute)[1] == 0:
                continue
            block = self._minute(index, minute)
            first = int(np.searchsorted(block.agg_times, start_ms, side="left"))
            last = int(np.searchsorted(block.agg_times, end_ms, side="right"))
            room = limit - len(found)
            if newest:
                found[:0] = self._aggregates.of(index, block, slice(max(first, last - room), last))
            else:
                found += self._aggregates.of(index, block, slice(first, min(last, first + room)))
            if len(found) == limit:
                break
        return found

    def fills_between(self, symbol: str, start_ms: int, end_ms: int, now_ms: int) -> Sequence[MarketTrade]:
        """As `MarketSource`."""
        index = self._index[symbol]
        end_ms = min(end_ms, now_ms - FILL_DELAY_MS)
        found: list[MarketTrade] = []
        # The last fills of a minute may fall on the first ms of the next one.
        for minute in range(max(start_ms, self._listed_ms) // MINUTE_MS - 1, end_ms // MINUTE_MS + 1):
            block = self._minute(index, minute)
            first = int(np.searchsorted(block.times, start_ms, side="left"))
            last = int(np.searchsorted(block.times, end_ms, side="right"))
            found += self._fills.of(index, block, slice(first, last))
        return found

    def history_start_ms(self, symbol: str, now_ms: int) -> int:
        """The listing, or where it lies too far back the first whole hour of the history that is told."""
        return max(self._listed_ms, -(-(now_ms - self._history_ms) // HOUR_MS) * HOUR_MS)

    def bar(self, symbol: str, open_ms: int, close_ms: int, now_ms: int) -> Bar | None:
        """As `MarketSource`; folded from its minutes."""
        known_ms = self.history_start_ms(symbol, now_ms)
        if open_ms < known_ms and known_ms > self._listed_ms:
            return None
        index = self._index[symbol]
        settled_ms = now_ms - FILL_DELAY_MS
        first = max(open_ms, self._listed_ms) // MINUTE_MS
        total: Bar | None = None
        for minute in range(first, min(close_ms, settled_ms) // MINUTE_MS + 1):
            if settled_ms >= (minute + 1) * MINUTE_MS:
                part = self._closed_minute_bar(index, minute, (minute + 1) * MINUTE_MS)
            else:
                part = self._minute_bar(index, minute, settled_ms)
            if part is not None:
                if total is None:
                    total = empty_bar(open_ms, close_ms, part.open)
                total.append(part)
        return total or self._flat_bar(index, open_ms, close_ms)

    def _flat_bar(self, index: int, open_ms: int, close_ms: int) -> Bar | None:
        before = self._schedule.last_minute_with_trades(index, open_ms // MINUTE_MS)
        if before is None:
            return None
        # The counting fills of that minute may end just before it does, or spill to the next minute's first ms.
        for minute in (before + 1, before):
            last = self._closed_minute_bar(index, minute, (minute + 1) * MINUTE_MS)
            if last is not None and minute * MINUTE_MS < open_ms:
                return empty_bar(open_ms, close_ms, last.close)
        return None

    def _minute_bar(self, index: int, minute: int, time_ms_max: int) -> Bar | None:
        blocks = (self._minute(index, minute - 1), self._minute(index, minute))
        return minute_bar(self._models[index], minute, blocks, time_ms_max)

    def _minute(self, index: int, minute: int) -> MinuteTrades:
        return self._minutes.get(index, minute) or self._minutes.put(index, minute, self._generate(index, minute))

    def _generate(self, index: int, minute: int) -> MinuteTrades:
        first_id, count = self._schedule.minute(index, minute)
        return generate_minute(self._models[index], minute, first_id, count, self._seed, self._straddle_share)


class _MinuteCache:
    """The minutes asked for last, bounded by their rows."""

    def __init__(self, rows_max: int) -> None:
        self._rows_max = rows_max
        self._rows = 0
        self._minutes: OrderedDict[tuple[int, int], MinuteTrades] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, index: int, minute: int) -> MinuteTrades | None:
        with self._lock:
            found = self._minutes.get((index, minute))
            if found is not None:
                self._minutes.move_to_end((index, minute))
            return found

    def put(self, index: int, minute: int, trades: MinuteTrades) -> MinuteTrades:
        with self._lock:
            if (index, minute) not in self._minutes:
                self._minutes[index, minute] = trades
                self._rows += trades.rows + 1
            while self._rows > self._rows_max and len(self._minutes) > 1:
                _, dropped = self._minutes.popitem(last=False)
                self._rows -= dropped.rows + 1
        return trades
