"""A synthetic market whose symbols come, go, pause, come back and change their tick size, as a fault script says.

A symbol's life is a row of phases, each with its own ids and decimals. Ids of a new generation begin at 1; a finer tick
adds a constant to every price, so that the new decimals are used and klines stay exact without being folded anew.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import lru_cache

from klagg.binance.serving.payloads import plain, unit
from klagg.simulator.bars import Bar, empty_bar
from klagg.simulator.faults import Fault, FaultScriptError
from klagg.simulator.market import ContractListing, MarketSource, MarketTrade
from klagg.simulator.merged import AGG_DELAY_MS

MINUTE_MS = 60_000
_SPILL_MS = 100
"""Fills follow the beginning of their aggregate trade by less than this."""
_FAR_MS = 1 << 62


@dataclass(frozen=True, slots=True)
class _Phase:
    """A stretch of a symbol's trades, of which `agg_offset` and `fill_offset` are the source's last ids before.

    `generation_ids` are what is taken off the source's ids; `listing` is as it stands in this phase.
    A `paused` phase has no trades: those of the source are passed over, and later ids follow on the ones before it.
    """

    from_ms: int
    agg_offset: int
    fill_offset: int
    generation_ids: tuple[int, int]
    listing: ContractListing
    rise: Decimal = Decimal(0)
    pending_ms: int = 0
    paused: bool = False

    def price(self, text: str) -> str:
        """The price as this phase tells it."""
        return text if not self.rise else plain(Decimal(text) + self.rise)

    def trade(self, trade: MarketTrade, *, is_fill: bool) -> MarketTrade:
        """The source's trade as this phase tells it."""
        aggs, fills = self.generation_ids
        return trade._replace(
            id=trade.id - (fills if is_fill else aggs),
            price=self.price(trade.price),
            first=trade.first - fills,
            last=trade.last - fills,
        )

    def bar(self, bar: Bar) -> Bar:
        """The source's bar of trades of this phase alone, as this phase tells it."""
        fills = self.generation_ids[1]
        return replace(
            bar,
            open=self.price(bar.open),
            high=self.price(bar.high),
            low=self.price(bar.low),
            close=self.price(bar.close),
            quote_volume=bar.quote_volume + self.rise * bar.volume,
            taker_buy_quote_volume=bar.taker_buy_quote_volume + self.rise * bar.taker_buy_volume,
            first_id=bar.first_id - fills,
            last_id=bar.last_id - fills,
        )


@dataclass(frozen=True, slots=True)
class _Generation:
    """The phases between a listing and a delisting, and the source's last ids at its end (None: it goes on)."""

    phases: tuple[_Phase, ...]
    to_ms: int = _FAR_MS
    last_ids: tuple[int, int] = (_FAR_MS, _FAR_MS)
    settle_ms: int = 0

    @property
    def from_ms(self) -> int:
        return self.phases[0].from_ms

    def at(self, time_ms: int) -> _Phase:
        """The phase at a time, the first one before it."""
        return self.phases[max(bisect_right(self.phases, time_ms, key=lambda phase: phase.from_ms) - 1, 0)]

    def phase_of(self, trade: MarketTrade, *, is_fill: bool) -> _Phase | None:
        """The phase that one of the source's trades belongs to, None if it is none of this generation's."""
        if trade.id > self.last_ids[is_fill]:
            return None
        offset = (lambda phase: phase.fill_offset) if is_fill else (lambda phase: phase.agg_offset)
        place = bisect_right(self.phases, trade.id - 1, key=offset)
        return self.phases[place - 1] if place and not self.phases[place - 1].paused else None

    def source_id(self, agg_id: int) -> int:
        """The source's id of an aggregate trade that is told under this one."""
        trading = [phase for phase in self.phases if not phase.paused]
        begun = [phase for phase in trading if phase.agg_offset + 1 - phase.generation_ids[0] <= agg_id]
        return agg_id + (begun or trading)[-1 if begun else 0].generation_ids[0]

    def trading(self, start_ms: int, end_ms: int) -> list[tuple[int, int]]:
        """The parts of this time, both ends included, in which the symbol is not paused."""
        ends = [*(phase.from_ms for phase in self.phases[1:]), _FAR_MS]
        parts = [
            (max(start_ms, phase.from_ms if number else start_ms), min(end_ms, to_ms - 1))
            for number, (phase, to_ms) in enumerate(zip(self.phases, ends, strict=True))
            if not phase.paused
        ]
        return [(from_ms, to_ms) for from_ms, to_ms in parts if from_ms <= to_ms]

    def trades(self, trades: Iterable[MarketTrade], *, is_fill: bool) -> list[MarketTrade]:
        """Those of the source's trades that are of this generation, as it tells them."""
        phases = ((trade, self.phase_of(trade, is_fill=is_fill)) for trade in trades)
        return [phase.trade(trade, is_fill=is_fill) for trade, phase in phases if phase is not None]


class ChangingMarket:
    """A `MarketSource`: `source` with `changes`. Everything but the symbols that change is passed through."""

    def __init__(self, source: MarketSource, changes: Sequence[Fault], start_ms: int) -> None:
        """`source`: an endless market with fills; `changes` by time, which counts from `start_ms`.

        Raises FaultScriptError for a change that the symbol's life does not allow.
        """
        if source.span_ms() is not None:
            raise FaultScriptError("Listings, delistings and tick sizes change in a synthetic market only.")
        self._source = source
        self._lives: dict[str, tuple[_Generation, ...]] = {}
        listings = {listing.symbol: listing for listing in source.listings(start_ms)}
        for fault in changes:
            for symbol in sorted(fault.symbols or ()):
                if symbol not in listings:
                    raise FaultScriptError(_sentence(fault, f"{symbol} is no symbol of this market"))
                life = self._lives.get(symbol)
                first = _Phase(listings[symbol].onboard_ms, 0, 0, (0, 0), listings[symbol])
                self._lives[symbol] = self._changed(life or (_Generation((first,)),), fault, start_ms, is_new=not life)
        self._closed_minute = lru_cache(maxsize=16_384)(self._fold_minute)

    def describe(self) -> Mapping[str, object]:
        """What is played, with the symbols that change."""
        return {**self._source.describe(), "changing": sorted(self._lives)}

    def span_ms(self) -> None:
        """It never ends."""

    def listings(self, now_ms: int) -> Sequence[ContractListing]:
        """As `MarketSource`."""
        changed = (self._listing(listing, now_ms) for listing in self._source.listings(now_ms))
        return [listing for listing in changed if listing is not None]

    def prepare(self, now_ms: int) -> None:
        """As `MarketSource`."""
        self._source.prepare(now_ms)

    def aggregates(self, after_ms: int, until_ms: int) -> Sequence[MarketTrade]:
        """As `MarketSource`."""
        return self._changed_trades(self._source.aggregates(after_ms, until_ms), is_fill=False)

    def fills(self, after_ms: int, until_ms: int) -> Sequence[MarketTrade]:
        """As `MarketSource`."""
        return self._changed_trades(self._source.fills(after_ms, until_ms), is_fill=True)

    def has_fills(self, symbol: str) -> bool:
        """As `MarketSource`."""
        return self._source.has_fills(symbol)

    def aggregates_from(self, symbol: str, from_id: int, limit: int, now_ms: int) -> Sequence[MarketTrade]:
        """As `MarketSource`; of the generation of `now_ms`."""
        if symbol not in self._lives:
            return self._source.aggregates_from(symbol, from_id, limit, now_ms)
        life = self._generation(symbol, now_ms)
        if life is None:
            return []
        first, found = life.source_id(max(from_id, 1)), list[MarketTrade]()
        while len(found) < limit:
            page = self._source.aggregates_from(symbol, first, limit, now_ms)
            found += life.trades(page, is_fill=False)
            if len(page) < limit:
                break
            first = page[-1].id + 1
        return found[:limit]

    def aggregates_between(
        self, symbol: str, start_ms: int, end_ms: int, limit: int, now_ms: int, *, newest: bool
    ) -> Sequence[MarketTrade]:
        """As `MarketSource`; of the generation of `now_ms`."""
        read = self._source.aggregates_between
        if symbol not in self._lives:
            return read(symbol, start_ms, end_ms, limit, now_ms, newest=newest)
        life = self._generation(symbol, now_ms)
        if life is None:
            return []
        parts = life.trading(max(start_ms, life.from_ms), min(end_ms, life.to_ms - 1))
        found: list[MarketTrade] = []
        for from_ms, to_ms in reversed(parts) if newest else parts:
            trades = life.trades(read(symbol, from_ms, to_ms, limit - len(found), now_ms, newest=newest), is_fill=False)
            found = [*trades, *found] if newest else [*found, *trades]
            if len(found) >= limit:
                break
        return found

    def fills_between(self, symbol: str, start_ms: int, end_ms: int, now_ms: int) -> Sequence[MarketTrade]:
        """As `MarketSource`; of the generation of `now_ms`."""
        fills = self._source.fills_between(symbol, start_ms, end_ms, now_ms)
        if symbol not in self._lives:
            return fills
        life = self._generation(symbol, now_ms)
        return [] if life is None else life.trades(fills, is_fill=True)

    def history_start_ms(self, symbol: str, now_ms: int) -> int:
        """As `MarketSource`; not before the listing of the generation of `now_ms`."""
        known_ms = self._source.history_start_ms(symbol, now_ms)
        life = self._generation(symbol, now_ms) if symbol in self._lives else None
        return known_ms if life is None else max(known_ms, life.from_ms)

    def bar(self, symbol: str, open_ms: int, close_ms: int, now_ms: int) -> Bar | None:
        """As `MarketSource`; of the generation of `now_ms`, None outside of its life."""
        if symbol not in self._lives:
            return self._source.bar(symbol, open_ms, close_ms, now_ms)
        life = self._generation(symbol, now_ms)
        if life is None or open_ms >= life.to_ms or close_ms < life.from_ms:
            return None
        known_ms = self._source.history_start_ms(symbol, now_ms)
        if open_ms < known_ms and life.from_ms < known_ms:
            return None
        total: Bar | None = None
        first, last = max(open_ms, life.from_ms) // MINUTE_MS, min(close_ms, now_ms, life.to_ms) // MINUTE_MS
        for minute in range(first, last + 1):
            is_over = now_ms >= (minute + 1) * MINUTE_MS + AGG_DELAY_MS
            part = (self._closed_minute if is_over else self._fold_minute)(
                symbol, life, minute, _FAR_MS if is_over else now_ms
            )
            if part is not None:
                if total is None:
                    total = empty_bar(open_ms, close_ms, part.open)
                total.append(part)
        return total or self._flat_bar(symbol, life, open_ms, close_ms, now_ms)

    def _flat_bar(self, symbol: str, life: _Generation, open_ms: int, close_ms: int, now_ms: int) -> Bar | None:
        """Carries the last price of the generation; None before its first trade."""
        last = self.aggregates_between(symbol, life.from_ms, open_ms - 1, 1, now_ms, newest=True)
        return empty_bar(open_ms, close_ms, last[0].price) if last else None

    def _fold_minute(self, symbol: str, life: _Generation, minute: int, now_ms: int) -> Bar | None:
        """One minute of a generation as of `now_ms`; None without trades. The source's bar where one phase has it."""
        start_ms = minute * MINUTE_MS
        close_ms = start_ms + MINUTE_MS - 1
        now_ms = min(now_ms, close_ms + 1 + AGG_DELAY_MS)
        phase = life.at(start_ms)
        if phase.from_ms + _SPILL_MS <= start_ms and life.at(close_ms) is phase and close_ms < life.to_ms:
            whole = None if phase.paused else self._source.bar(symbol, start_ms, close_ms, now_ms)
            return phase.bar(whole) if whole is not None and whole.trades else None
        total: Bar | None = None
        fills = self._source.fills_between(symbol, start_ms, close_ms, now_ms)
        for fill in life.trades(fills, is_fill=True):
            if fill.counts:
                if total is None:
                    total = empty_bar(start_ms, close_ms, fill.price)
                total.add(fill)
        return total

    def _changed_trades(self, trades: Sequence[MarketTrade], *, is_fill: bool) -> Sequence[MarketTrade]:
        lives, changed = self._lives, []
        for trade in trades:
            life = lives.get(trade.symbol)
            if life is None:
                changed.append(trade)
                continue
            for generation in life:
                phase = generation.phase_of(trade, is_fill=is_fill)
                if phase is not None:
                    changed.append(phase.trade(trade, is_fill=is_fill))
                    break
        return changed

    def _generation(self, symbol: str, now_ms: int) -> _Generation | None:
        """The newest generation that has begun."""
        return next((each for each in reversed(self._lives[symbol]) if each.from_ms <= now_ms), None)

    def _listing(self, listing: ContractListing, now_ms: int) -> ContractListing | None:
        life = self._lives.get(listing.symbol)
        if life is None:
            return listing
        for generation in reversed(life):
            first = generation.phases[0]
            if generation.from_ms <= now_ms < generation.to_ms:
                return generation.at(now_ms).listing
            if first.from_ms - first.pending_ms <= now_ms < first.from_ms:
                return replace(first.listing, status="PENDING_TRADING", contract_type="")
            if generation.to_ms <= now_ms < generation.to_ms + generation.settle_ms:
                return replace(generation.at(now_ms).listing, status="SETTLING", delivery_ms=generation.to_ms)
        return None

    def _changed(
        self, life: tuple[_Generation, ...], fault: Fault, start_ms: int, *, is_new: bool
    ) -> tuple[_Generation, ...]:
        """A symbol's `life` with one more change; `is_new` says that it is the first of the script."""
        at_ms, newest = start_ms + fault.at_ms, life[-1]
        symbol, listing = newest.phases[-1].listing.symbol, newest.phases[-1].listing
        lasts = newest.to_ms == _FAR_MS
        edge = self._edge(symbol, at_ms)
        if fault.kind == "listing":
            if not is_new:
                raise FaultScriptError(_sentence(fault, f"{symbol} changes before it is listed"))
            return (_Generation((_listed(listing, at_ms, edge, fault),)),)
        if fault.kind == "relisting":
            if lasts:
                raise FaultScriptError(_sentence(fault, f"{symbol} has not been delisted before"))
            again = replace(_listed(listing, at_ms, edge, fault), rise=newest.phases[-1].rise)
            return (*life, _Generation((again,)))
        if not lasts:
            raise FaultScriptError(_sentence(fault, f"{symbol} is delisted already"))
        if at_ms <= newest.phases[-1].from_ms:
            raise FaultScriptError(_sentence(fault, f"{symbol} must have traded before at_s"))
        if fault.kind == "pause":
            return (
                *life[:-1],
                replace(newest, phases=(*newest.phases, *self._pause(newest.phases[-1], fault, edge, at_ms))),
            )
        if fault.kind == "delisting":
            return (*life[:-1], replace(newest, to_ms=at_ms, last_ids=edge, settle_ms=fault.settle_ms))
        return (*life[:-1], replace(newest, phases=(*newest.phases, _finer(newest.phases[-1], at_ms, edge, fault))))

    def _pause(self, phase: _Phase, fault: Fault, edge: tuple[int, int], at_ms: int) -> tuple[_Phase, _Phase]:
        """The phase without trades from `at_ms` on, and the one after it."""
        to_ms = at_ms + (fault.for_ms or 0)
        after = self._edge(phase.listing.symbol, to_ms)
        aggs, fills = phase.generation_ids
        ids = aggs + after[0] - edge[0], fills + after[1] - edge[1]
        paused = replace(phase, from_ms=at_ms, agg_offset=edge[0], fill_offset=edge[1], paused=True)
        resumed = replace(phase, from_ms=to_ms, agg_offset=after[0], fill_offset=after[1], generation_ids=ids)
        return paused, resumed

    def _edge(self, symbol: str, at_ms: int) -> tuple[int, int]:
        """The source's last ids before a time: of aggregate trades that began before it, and of their fills."""
        now_ms = at_ms + 2 * MINUTE_MS
        last = self._source.aggregates_between(symbol, 0, at_ms - 1, 1, now_ms, newest=True)
        if not last:
            return 0, 0
        after = self._source.fills_between(symbol, last[0].time_ms, at_ms - 1, now_ms)
        return last[0].id, max([last[0].last, *(fill.id for fill in after)])


def _listed(listing: ContractListing, at_ms: int, edge: tuple[int, int], fault: Fault) -> _Phase:
    return _Phase(at_ms, *edge, edge, replace(listing, onboard_ms=at_ms), pending_ms=fault.pending_ms)


def _finer(phase: _Phase, at_ms: int, edge: tuple[int, int], fault: Fault) -> _Phase:
    """The phase after a tick size change: `digits` more decimals, the last of which every price uses."""
    listing = phase.listing
    precision = listing.price_precision + fault.digits
    finer = replace(listing, price_precision=precision, tick_size=unit(precision))
    rise = phase.rise + 3 * Decimal(unit(precision))
    return replace(phase, from_ms=at_ms, agg_offset=edge[0], fill_offset=edge[1], listing=finer, rise=rise)


def _sentence(fault: Fault, why: str) -> str:
    return f"Fault {fault.number} ({fault.kind}): symbols cannot be met: {why}."
