"""The aggregator itself, without any I/O: entries of the feed go in, a tick's outputs come out.

Between two ticks entries only gather. At the tick they are decoded together, pass the ledger and are folded; then the
tick publishes what finality decides. So outputs are a pure function of the log: neither how entries were batched nor
the process that reads them can change an output, and a restart that reads the same log publishes the same.

The order of calls, which `assert` statements hold:

1. `apply(entry_id, raw)` for every entry, in the order of the feed. For anything but a tick it returns nothing.
2. For a tick it returns its outputs, as an iterator that works while it is read: usually one `Outputs`, after a long
   gap one for each step. The caller reads all of them before it applies the next entry, because until then the tick is
   not over: later steps still change the ring, and the last one frees slots.
3. Each `Outputs` is encoded (`Outputs.encode`) before the next one is read, or never. Encoding reads names of symbols
   whose slots a later step may free. A caller that publishes nothing (the silent part of a restart) does not encode,
   which saves most of a tick's time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from aggregator.again import Again
from aggregator.arrays import Bools, Ints
from aggregator.columns import DecodedTrades, Trades, at_scale, check_entry, decode, quotes_of, significant_decimals
from aggregator.columns import joined as joined_trades
from aggregator.edge_claims import EdgeClaims
from aggregator.edges import Edges
from aggregator.feed_sequences import FeedSequences
from aggregator.finality import Finality, Graces
from aggregator.fold import BarFolder
from aggregator.freshness import Freshness
from aggregator.ledger import Ledger
from aggregator.listings import OLD_GENERATION_REASON, UNLISTED_REASON, Listings, usable_listings
from aggregator.official import Official
from aggregator.publisher import Outputs, Publisher
from aggregator.repair_requests import RepairRequests
from aggregator.ring import AHEAD_MS, Ring, check_multiply, multiply
from aggregator.silences import Silences
from aggregator.symbols import SymbolTable
from aggregator.witnesses import Witnesses
from klagg import settings
from klagg.edge_splits import EXCHANGE_EDGES
from klagg.errors import ArithmeticOverflow, ConfigError, ContractError, KlaggError
from klagg.intervals import MINUTE_MS, ordered
from klagg.wire.entries import (
    AGAIN,
    AGG_IDS,
    EDGES,
    EVENT_FIRST_TRADE,
    EVENT_TICK,
    LISTING,
    OFFICIAL,
    TICK,
    TRADES,
    WATERMARK,
    WITNESS,
    Listing,
    Witness,
    dead_entry,
    events_entry,
    request_entry,
    witnesses_of,
)
from klagg.wire.fields import RawFields, integer_of, text_of, upgraded
from klagg.wire.findings import FindingKind, Severity, finding_entry
from klagg.wire.keys import FEED

NARROW = 1 << 15
"""Slots below this fit 16 bits. numpy sorts 16 bit integers by radix, eight times as fast as 64 bit ones."""

GATHERED_MAX = 20_000_000
"""Trades that may gather without a tick. More of them mean that the clock process is dead: TicksMissing."""


EACH_TURN_MS = 5 * MINUTE_MS
"""Bars longer than the shortest interval and at most this long go to `live` at every turn (`live_long_ms`)."""

LONG_A_TURN = 3
"""So many of the intervals that are longer go to `live` at a turn, in order; the others wait for theirs. So what a turn
costs does not grow with the number of intervals, here, in Redis and in every reader."""

TOO_FINE = "does not fit 64 bits at the symbol's scales, or is finer than these may become"

STEP_MS_MAX = 300_000
"""A jump of the clock is processed in steps of at most this: five minutes of 600 symbols are about 4,000 klines."""


class TicksMissing(KlaggError):
    """Trades pile up and no tick comes: the clock process does not run."""


@dataclass(slots=True)
class Counts:
    """What a core has counted since its state began (a checkpoint holds it), for the statistics of its process."""

    trades: int = 0
    """Trades that were admitted."""
    duplicates: int = 0
    refused: int = 0
    ticks: int = 0
    finals: int = 0
    """Published versions of bars: finals, amendments and confirmations."""
    gaps_opened: int = 0
    gaps_closed: int = 0
    requests: int = 0
    bad_entries: int = 0
    covered: int = 0
    """Trades of minutes that are official already: the ledger knows them, no bar counts them."""
    again: int = 0
    """Finals that were published again, because somebody lost them."""
    witnesses: int = 0
    """Witnesses of last ids that came."""
    witnesses_wrong: int = 0
    """Those that a later trade denied."""
    edges: int = 0
    """Splits of aggTrades at a close that were adopted from the exchange."""


class Core:
    """One shard's aggregator. `apply` every feed entry in order; a tick answers with Outputs.

    `epoch` goes into every kline. With `requests_repairs` False the core requests nothing that is missing, because
    nobody is there to answer (a replay). ConfigError if the graces do not fit the shortest interval's window.
    """

    def __init__(self, config: settings.Aggregator, epoch: int = 0, *, requests_repairs: bool = True) -> None:
        self.epoch = epoch
        self.counts = Counts()
        self.symbols = SymbolTable()
        intervals = ordered(config.intervals)
        window_ms = config.window_minutes * MINUTE_MS
        self.ring = Ring(intervals, window_ms, self.symbols.capacity)
        self.ledger = Ledger(self.symbols.capacity)
        self.finality = Finality(self.ring, self.ledger, Graces(config.grace_ms, config.grace_without_watermark_ms))
        finest_ms = min(each.shortest_ms for each in intervals)
        self.edges = Edges(min(finest_ms, MINUTE_MS))
        self.bar_folder = BarFolder(self.ring, self.finality)
        self.official = Official(self.ring, self.ledger, self.finality, self.symbols, window_ms)
        self.silences = Silences(self.ring, self.ledger, self.finality, self.symbols)
        self.listings = Listings(self.symbols, self.ring, self.ledger, self.finality)
        self._requests_repairs = requests_repairs
        self.repair_requests = RepairRequests(self.symbols, self.ledger, self.finality, intervals, config)
        self.witnesses = Witnesses(self.symbols, self.ledger, self.finality, self.repair_requests.bucket, config)
        self.freshness = Freshness(intervals)
        self._publisher = Publisher(self.ring, self.symbols, self.edges, self.freshness)
        self._again = Again(self.ring, self.symbols, self._publisher)
        parts = self.ring, self.symbols, self.edges, self.finality, self.bar_folder, self._publisher
        self._edge_claims = EdgeClaims(*parts, adopts=config.edges == EXCHANGE_EDGES)
        self._window_ms = window_ms
        self._step_ms = min(self.ring.span_ms // 2, STEP_MS_MAX)
        if self._step_ms <= config.grace_without_watermark_ms:
            raise ConfigError("aggregator.grace_without_watermark_ms is too long for the shortest interval's window")
        self._live_long_ms = config.live_long_ms
        self.live_long_due = 0
        """The exchange time (ms) of the next turn of bars longer than the shortest interval."""
        self.live_turn = 0
        """Which of the intervals that take turns is the next one."""
        short = [at == 0 or 0 < each.length_ms <= EACH_TURN_MS for at, each in enumerate(intervals)]
        self._each_turn = tuple(at for at, every in enumerate(short) if every)
        self._in_turns = tuple(at for at, every in enumerate(short) if not every)
        self._gathered: list[tuple[str, RawFields]] = []
        self._gathered_count = 0
        self._gathered_trades: list[Trades] = []
        self._watermarks: dict[bytes, int] = {}
        self._listed: list[Listing] = []
        self._witnesses: list[tuple[Witness, bool]] = []
        self.held = Trades.none()
        """Admitted trades that are too far ahead of the last tick to be folded."""
        self.agg_ids = np.zeros(self.symbols.capacity, np.int64)
        """The id space of each slot: 1 aggTrade ids, −1 fill ids, 0 not known yet."""
        self.feed_sequences = FeedSequences()
        self._pending = Outputs(0)
        """What has already been found for the next tick's outputs: findings, dead entries, events."""
        self._in_tick = False
        """Whether a tick's outputs have not all been read."""
        self.time_ms = 0
        """The last tick's time in exchange ms; 0 before the first."""

    def apply(self, entry_id: str, raw: RawFields) -> Iterable[Outputs]:
        """Apply one feed entry; for a tick its outputs, to be read before the next call (see the module).

        An entry that cannot be used is added to the next outputs' `dead`. A tick whose time is before the last one's
        has no outputs. TicksMissing or OfficialPilesUp if far too much gathers without a tick.
        """
        assert not self._in_tick, "all outputs of a tick are read before the next entry is applied"
        try:
            entry = upgraded(raw)
            if loss := self.feed_sequences.note(entry_id, entry, self.time_ms):
                self._pending.findings.append(loss)
            kind = text_of(entry, "kind")
            if kind == TRADES:
                self._gather(entry_id, entry)
            elif kind == TICK:
                time_ms = integer_of(entry, "time")
                self._in_tick = True
                return self._tick(time_ms)
            elif kind == WATERMARK:
                self._gather_watermark(entry)
            elif kind == LISTING:
                self._listed += usable_listings(entry)
            elif kind == OFFICIAL:
                self.official.gather(entry)
            elif kind == AGAIN:
                self._again.gather(entry)
            elif kind == WITNESS:
                agg = text_of(entry, "ids") == AGG_IDS
                self._witnesses += [(each, agg) for each in witnesses_of(entry)]
            elif kind == EDGES:
                self._edge_claims.gather(entry)
            else:
                raise ContractError(f"a feed entry of kind {kind!r} means nothing to this aggregator")
        except ContractError as bad:
            self._bury(entry_id, raw, bad)
        return ()

    def _bury(self, entry_id: str, raw: RawFields, reason: ContractError) -> None:
        """Put an entry that cannot be used into `dead`, with the reason. All other entries go on."""
        self.counts.bad_entries += 1
        self._pending.dead.append(dead_entry(FEED, entry_id, "aggregator", str(reason), raw))

    def _gather(self, entry_id: str, raw: RawFields) -> None:
        self._gathered_count += check_entry(raw)
        if self._gathered_count > GATHERED_MAX:
            raise TicksMissing(f"{self._gathered_count} trades came without a tick: is klagg-clock running?")
        self._gathered.append((entry_id, raw))

    def _gather_watermark(self, raw: RawFields) -> None:
        time_ms = integer_of(raw, "time")
        text_of(raw, "symbols")
        for name in filter(None, raw[b"symbols"].split(b",")):
            self._watermarks[name] = max(time_ms, self._watermarks.get(name, time_ms))

    def _apply_watermarks_and_listings(self, time_ms: int) -> None:
        """Apply watermarks and listings since the last tick. A watermark does not revive a name with a freed slot."""
        marked = {name: until for name, until in self._watermarks.items() if not self.listings.is_freed(name.decode())}
        listed = self.listings.usable(self._listed, time_ms)
        self.symbols.add_all([*marked, *(listing.symbol.encode() for listing in listed)])
        self.grow()
        self._pending.events += self.listings.apply(listed, time_ms)
        for slot in self.listings.drain_begun():
            self.agg_ids[slot] = 0
            self.silences.clear_slot(slot)
            self.witnesses.clear_slot(slot)
        for listing in listed:
            slot = self.symbols.index[listing.symbol.encode()]
            raised = self._raise_scales(slot, listing.price_scale, listing.qty_scale)
            if self._lower_scales(slot, listing.price_scale, listing.qty_scale) or raised:
                # Trades may have come before the listing that makes room for them: they are requested now.
                self.ledger.reopen(slot, max(time_ms - self._window_ms, int(self.symbols.generation[slot])))
        if marked:
            slots = self.symbols.slots_of(list(marked))
            times = np.fromiter(marked.values(), np.int64, len(slots))
            self.finality.note_watermarks(slots, times)
        self._listed, self._watermarks = [], {}

    def _hear_witnesses(self, time_ms: int) -> None:
        """Take the witnesses since the last tick, once its trades are admitted. What one says of a name that nobody
        knows, or of a symbol whose ids are of the other kind, says nothing."""
        heard, self._witnesses = self._witnesses, []
        self.counts.witnesses += len(heard)
        index = self.symbols.index
        known = [(index.get(each.symbol.encode(), -1), each, agg) for each, agg in heard]
        self.witnesses.hear([each for each in known if each[0] >= 0], time_ms)
        self.witnesses.settle(time_ms)

    def _place_official_rows(self) -> None:
        """Give the official rows since the last tick their slots, and raise the scales to what these rows need.

        This comes before the tick's trades get theirs, so that a tick's outputs do not depend on the order of entries.
        Rows of names whose slots were freed are dropped.
        """
        answers = [each for each in self.official.drain_answers() if not self.listings.is_freed(each.symbol)]
        if not answers:
            return
        self.symbols.add_all([answer.symbol.encode() for answer in answers])
        self.grow()
        for slot, price_scale, qty_scale in self.official.place(answers):
            self._find_room(slot, price_scale, qty_scale)

    def grow(self) -> None:
        """Make every array as wide as the symbol table; call it after symbols were added."""
        capacity = self.symbols.capacity
        if capacity > self.ring.capacity:
            self.ring.grow(capacity)
            self.ledger.grow(capacity)
            self.finality.grow(capacity)
            self.official.grow(capacity)
            self.listings.grow(capacity)
            self.repair_requests.grow(capacity)
            self.witnesses.grow(capacity)
            self.agg_ids = np.concatenate([self.agg_ids, np.zeros(capacity - len(self.agg_ids), np.int64)])

    def clear_slot(self, slot: int) -> None:
        """Forget the symbol that had the slot, in every part, so that the next one starts from nothing."""
        for part in (
            self.ring,
            self.bar_folder,
            self.ledger,
            self.finality,
            self.edges,
            self._publisher,
            self.listings,
            self.official,
            self.repair_requests,
            self.silences,
            self.witnesses,
            self.symbols,
        ):
            part.clear_slot(slot)
        self.agg_ids[slot] = 0

    def _find_room(self, slot: int, price_scale: int, qty_scale: int) -> None:
        """Raise a symbol's scales to at least these, which its values need, as far as there is room (`room` of the
        symbol table; quantities come first).

        Decimals of the one that no bar needs are given to the other before any value is refused: the digits of a quote
        volume say how many decimals price and quantity have together, and not which of them has how many."""
        symbols, room = self.symbols, self.symbols.room(slot)
        while max(price_scale, symbols.price_scale[slot]) + max(qty_scale, symbols.qty_scale[slot]) > room:
            price_lacks = price_scale - int(symbols.price_scale[slot])
            qty_lacks = qty_scale - int(symbols.qty_scale[slot])
            if price_lacks * qty_lacks >= 0 or not self._shift(slot, 1 if price_lacks > 0 else -1):
                break
        qty_scale = min(max(qty_scale, int(symbols.qty_scale[slot])), room - int(symbols.price_scale[slot]))
        self._raise_scales(slot, min(price_scale, room - qty_scale), qty_scale)

    def _shift(self, slot: int, step: int) -> bool:
        """Give one decimal of the quantities to the prices (`step` 1), or the other way round (-1), if no bar needs it.
        Quote volumes stay as they are. Whether it could be given."""
        lower = self.symbols.qty_scale if step > 0 else self.symbols.price_scale
        if not lower[slot] or not self.edges.divides(slot, max(-step, 0), max(step, 0)):
            return False
        self.bar_folder.settle()
        try:
            self._rescale(slot, step, -step)
        except ArithmeticOverflow:
            return False
        return True

    def _raise_scales(self, slot: int, price_scale: int, qty_scale: int) -> bool:
        """Raise a symbol's scales to at least these; existing values are multiplied exactly. Whether one was raised.

        Where a value would not fit, the scales stay, and a finding says so. Trades that need more decimals are then
        refused one by one, and the process goes on."""
        self.bar_folder.settle()
        price_more = max(0, price_scale - int(self.symbols.price_scale[slot]))
        qty_more = max(0, qty_scale - int(self.symbols.qty_scale[slot]))
        if not price_more and not qty_more:
            return False
        try:
            self._rescale(slot, price_more, qty_more)
        except ArithmeticOverflow as beyond:
            name, needed = self.symbols.names[slot], f"{price_scale} and {qty_scale} decimals"
            self._pending.findings.append(
                finding_entry(
                    FindingKind.OVERFLOW, Severity.ERROR, f"{needed}: {beyond}", symbol=name, time_ms=self.time_ms
                )
            )
            return False
        return True

    def _lower_scales(self, slot: int, price_scale: int, qty_scale: int) -> bool:
        """Take back, down to what the exchange lists, decimals that no bar in the ring and no row that waits needs any
        more: each by itself, at every listing (exchangeInfo is read once an hour, and at a start). Whether one was."""
        self.bar_folder.settle()
        price_waits, qty_waits = self.official.scales_needed(slot, price_scale)
        price_less = max(0, int(self.symbols.price_scale[slot]) - max(price_scale, price_waits))
        qty_less = max(0, int(self.symbols.qty_scale[slot]) - max(qty_scale, qty_waits))
        lowered = False
        for price_step, qty_step in ((1, 0),) * price_less + ((0, 1),) * qty_less:
            if not self.edges.divides(slot, price_step, qty_step):
                continue
            try:
                self._rescale(slot, -price_step, -qty_step)
            except ArithmeticOverflow:
                continue
            lowered = True
        return lowered

    def _rescale(self, slot: int, price_more: int, qty_more: int) -> None:
        """Multiply all values of a symbol by ten to these powers.

        ArithmeticOverflow, and nothing is changed, if one does not fit or would lose a decimal."""
        own = self.held.slot == slot
        held = [(self.held.price, price_more), (self.held.qty, qty_more), (self.held.quote, price_more + qty_more)]
        check_multiply([(values[own], more) for values, more in held])
        self.ring.rescale(slot, price_more, qty_more)
        for values, more in held:
            part = values[own]
            multiply(part, more)
            values[own] = part
        self.edges.rescale(slot, price_more, qty_more)
        self.symbols.price_scale[slot] += price_more
        self.symbols.qty_scale[slot] += qty_more

    def _tick(self, time_ms: int) -> Iterator[Outputs]:
        """Fold everything that gathered, and publish. A tick from the past does nothing.

        Reading the outputs runs the tick: each is expired (it can no longer be encoded) when the next one is read.
        """
        self.counts.ticks += 1
        if time_ms >= self.time_ms:
            self.listings.first_tick_ms = self.listings.first_tick_ms or time_ms
            self._apply_watermarks_and_listings(time_ms)
            self._place_official_rows()
            trades = self._admitted(time_ms)
            self._hear_witnesses(time_ms)
            self.freshness.time_ms = time_ms
            for step_ms in self._steps(time_ms, trades):
                outputs = self._pending
                outputs.time_ms, outputs.last = step_ms, step_ms == time_ms
                trades = self._step(trades, step_ms, outputs)
                self._pending = Outputs(0)
                yield outputs
                outputs.expire()
        self._in_tick = False

    def _step(self, trades: Trades, step_ms: int, outputs: Outputs) -> Trades:
        """One step of a tick, the last one included; the trades that are still ahead of it."""
        if step_ms // MINUTE_MS != self.time_ms // MINUTE_MS:
            self.bar_folder.settle()
            self.official.expire(step_ms - self._window_ms)
            self._edge_claims.expire()
        self.ring.advance(step_ms)
        self.silences.note(self.ring.drain_left())
        ahead = self._fold(trades, step_ms, outputs)
        due = outputs.last and step_ms >= self.live_long_due
        pressing = self.bar_folder.pressing or self.official.pressing or self._edge_claims.pressing
        if due or pressing or self.listings.ending:
            self.bar_folder.settle()
            self._publish_first_trades(outputs)
        self.official.apply(step_ms, outputs)
        if outputs.last:
            self.counts.edges += self._edge_claims.apply(outputs)
        self._publisher.publish_broken(outputs)
        self._publish_decisions(outputs, step_ms)
        if outputs.last:
            self.held, self.time_ms = ahead, step_ms
            self.feed_sequences.forget(step_ms)
            self.counts.again += self._again.publish(outputs, self.epoch)
            self._request_missing(outputs)
            self._publish_live(outputs, due=due)
            self._release_slots(outputs)
            outputs.events.append(events_entry(EVENT_TICK, step_ms, []))
        return ahead

    def _steps(self, time_ms: int, trades: Trades) -> Iterator[int]:
        """The times (exchange ms) at which a tick publishes: its own, and before it those at which a long jump pauses,
        so that no bar leaves the ring unpublished and a commit stays small."""
        start = self.time_ms or (min(time_ms, int(trades.time.min())) if len(trades) else time_ms)
        if start < time_ms - 2 * self._window_ms and not self.time_ms:
            start = time_ms - 2 * self._window_ms
        while start + self._step_ms < time_ms:
            start += self._step_ms
            yield start
        yield time_ms

    def gather_trades(self, trades: Trades) -> None:
        """Gather trades that are integers at their symbols' scales already; each of them counts. For benches."""
        self._gathered_trades.append(trades)

    def _admitted(self, time_ms: int) -> Trades:
        """The trades since the last tick, decoded, at scale and new to the ledger, with those that were held back."""
        entries, self._gathered, self._gathered_count = self._gathered, [], 0
        gathered, self._gathered_trades = self._gathered_trades, []
        decoded = [*self._decoded(entries), *self.listings.parking.drain_released()]
        if decoded:
            gathered.append(self._at_scale(joined_trades(decoded)))
        trades = Trades.joined([self.held, *(self._admit(each, time_ms) for each in gathered if len(each))])
        self.listings.outlive(trades)
        self._pending.events += self.listings.genesis(trades, time_ms)
        return trades

    def _decoded(self, entries: Sequence[tuple[str, RawFields]]) -> Iterator[DecodedTrades]:
        """All entries in one go; if one is bad, one by one, so that only the bad one is lost."""
        if not entries:
            return
        try:
            yield decode([raw for _, raw in entries])
        except ContractError:
            for entry_id, raw in entries:
                try:
                    yield decode([raw])
                except ContractError as bad:
                    self._bury(entry_id, raw, bad)

    def _at_scale(self, decoded: DecodedTrades) -> Trades:
        """Decoded trades with their symbols' slots, at their symbols' scales. Trades that are not usable are left out:
        those of an earlier generation, and those of the other id space."""
        slots = self.symbols.new_slots_of(decoded.names)
        self.grow()
        current = self._of_this_generation(decoded, slots)
        self._settle_scales(decoded, slots, current)
        spaces = np.where(decoded.agg, 1, -1)
        self._claim_id_space(slots, spaces, current)
        usable = self._usable(decoded, slots, spaces, current)
        price, price_unfit = at_scale(decoded.price, decoded.price_decimals, self.symbols.price_scale[slots])
        qty, qty_unfit = at_scale(decoded.qty, decoded.qty_decimals, self.symbols.qty_scale[slots])
        quote, quote_unfit = quotes_of(price, qty)
        unfit = price_unfit | qty_unfit | quote_unfit
        trades = Trades(
            slots,
            decoded.id,
            price,
            qty,
            quote,
            decoded.first,
            decoded.last,
            decoded.time,
            decoded.maker,
            decoded.agg,
            None if decoded.counts.all() else decoded.counts,
            unfit if unfit.any() else None,
        )
        return trades if usable.all() else trades.select(usable)

    def _admit(self, trades: Trades, time_ms: int) -> Trades:
        """Those of the trades (at least one) that are new to the ledger and count in klines, sorted by slot."""
        narrow = trades.slot.astype(np.int16 if self.symbols.capacity < NARROW else np.int64)
        trades = trades.select(np.argsort(narrow, kind="stable"))
        new = self.ledger.admit(trades.slot, trades.id, trades.time)
        if not new.all():
            self.counts.duplicates += int(len(new) - new.sum()) - len(self.ledger.strange)
            if self.ledger.strange:
                self._park(trades.select(np.array(self.ledger.strange, np.int64)), time_ms)
            trades = trades.select(new)
        if len(trades):
            self._note_denied(trades)
            self.witnesses.note_fills(trades.slot, trades.last)
        if trades.counts is not None:
            trades = trades.select(trades.counts)
        if trades.unfit is not None and trades.unfit.any():
            lost = trades.select(trades.unfit)
            self._refuse(
                FindingKind.OVERFLOW,
                TOO_FINE,
                lost.slot,
                lost.id,
            )
            self.ledger.lose(lost.slot, lost.id, lost.time)
            trades = trades.select(~trades.unfit)
        trades.counts = trades.unfit = None
        self.counts.trades += len(trades)
        return trades

    def _note_denied(self, trades: Trades) -> None:
        """Tell of witnesses that these trades, new to the ledger, prove wrong."""
        for each in self.witnesses.denied_by(trades.slot, trades.id, trades.time):
            self.counts.witnesses_wrong += 1
            evidence = (
                f"the id {each.last_id} was called the last one until {each.until_ms}, and the trade {each.id} of "
                f"{each.time_ms} came; the margin is {self.witnesses.margin_ms} ms now"
            )
            name = self.symbols.names[each.slot]
            self._pending.findings.append(
                finding_entry(FindingKind.WITNESS_WRONG, Severity.WARNING, evidence, symbol=name, time_ms=each.time_ms)
            )

    def _settle_scales(self, decoded: DecodedTrades, slots: Ints, current: Bools) -> None:
        """Raise the symbols' scales to the significant decimals of their `current` trades, as far as there is room.

        A trade that is finer than the room allows raises nothing: it does not fit, and is refused by its id."""
        symbols = self.symbols
        beyond = (decoded.price_decimals > symbols.price_scale[slots]) | (
            decoded.qty_decimals > symbols.qty_scale[slots]
        )
        rows = np.flatnonzero(beyond & current & decoded.counts)
        if not len(rows):
            return
        owners = slots[rows]
        price = significant_decimals(decoded.price[rows], decoded.price_decimals[rows])
        qty = significant_decimals(decoded.qty[rows], decoded.qty_decimals[rows])
        for slot in np.unique(owners).tolist():
            fitting = (owners == slot) & (price + qty <= symbols.room(slot))
            if fitting.any():
                self._find_room(slot, int(price[fitting].max()), int(qty[fitting].max()))

    def _claim_id_space(self, slots: Ints, spaces: Ints, current: Bools) -> None:
        """Slots whose id space is not known yet get that of their `current` trades."""
        unknown = (self.agg_ids[slots] == 0) & current
        self.agg_ids[slots[unknown]] = spaces[unknown]

    def _usable(self, decoded: DecodedTrades, slots: Ints, spaces: Ints, current: Bools) -> Bools:
        """Which `current` trades are of their symbol's one id space; the others are refused."""
        wrong = (self.agg_ids[slots] != spaces) & current
        if not wrong.any():
            return current
        self._refuse(
            FindingKind.ID_SPACE, "is of the other id space than the symbol's", slots[wrong], decoded.id[wrong]
        )
        usable: Bools = current & ~wrong
        return usable

    def _of_this_generation(self, decoded: DecodedTrades, slots: Ints) -> Bools:
        """Which trades are not of an earlier generation. Of the others, seen ones are duplicates; unseen ones
        are refused."""
        found = self.listings.of_this_generation(slots, decoded.id, decoded.time)
        if found is None:
            return np.ones(len(slots), np.bool_)
        current, unseen = found
        self.counts.duplicates += int((~current & ~unseen).sum())
        self._refuse(FindingKind.OLD_GENERATION, OLD_GENERATION_REASON, slots[unseen], decoded.id[unseen])
        return current

    def _park(self, strange: Trades, time_ms: int) -> None:
        """Park trades that may be of a generation whose listing is still to come; those without room are refused."""
        over = self.listings.park(strange, time_ms)
        self._refuse(FindingKind.UNLISTED, UNLISTED_REASON, strange.slot[over], strange.id[over])

    def _refuse(self, kind: FindingKind, why: str, slots: Ints, ids: Ints) -> None:
        """Count trades that are refused, and report them in one finding a symbol."""
        self.counts.refused += len(slots)
        for slot in np.unique(slots).tolist():
            own = ids[slots == slot]
            evidence = f"{len(own)} trades, ids {own.min()} to {own.max()}: {why}"
            name = self.symbols.names[slot]
            self._pending.findings.append(
                finding_entry(kind, Severity.ERROR, evidence, symbol=name, time_ms=self.time_ms)
            )

    def _fold(self, trades: Trades, step_ms: int, outputs: Outputs) -> Trades:
        """Fold the trades that are due at this step into every interval; those that are ahead of it."""
        ahead = Trades.none()
        if not len(trades):
            return ahead
        if int(trades.time.max()) > step_ms + AHEAD_MS:
            beyond = trades.time > step_ms + AHEAD_MS
            ahead, trades = trades.select(beyond), trades.select(~beyond)
        if int(trades.time.min(initial=step_ms)) < step_ms - self._window_ms:
            old = trades.time < step_ms - self._window_ms
            self._refuse(
                FindingKind.TOO_OLD,
                f"is older than the window of {self._window_ms} ms",
                trades.slot[old],
                trades.id[old],
            )
            self.ledger.lose(trades.slot[old], trades.id[old], trades.time[old])
            trades = trades.select(~old)
        if not len(trades):
            return ahead
        own = self.official.uncovered(trades)
        self.counts.covered += len(trades) - len(own)
        if len(own):
            self.edges.note(own)
            self.bar_folder.fold(own, step_ms)
        return ahead

    def _publish_first_trades(self, outputs: Outputs) -> None:
        """The events of bars that got their first trade."""
        rows = [
            (self.symbols.names[slot], interval, opening)
            for slot, interval, opening in self.bar_folder.drain_first_trades()
        ]
        if rows:
            outputs.events.append(events_entry(EVENT_FIRST_TRADE, outputs.time_ms, sorted(rows)))

    def _publish_decisions(self, outputs: Outputs, step_ms: int) -> None:
        """What finality decides at this step, and the ledger's gap events."""
        floor_ms = step_ms - self._window_ms
        if self.finality.reaches_beyond(step_ms):
            self.bar_folder.settle()
        published = self.finality.close(step_ms)
        confirmed = self.silences.confirm()
        self.ledger.expire(floor_ms, self.ring.oldest_ms, self.finality.price_settled)
        self._publisher.publish_left(outputs, confirmed, self.epoch)
        self.counts.finals += sum(len(group.slots) for group, _ in confirmed)
        self.edges.expire(floor_ms, step_ms - self.ring.span_ms)
        self._publisher.publish_finals(outputs, published, self.epoch)
        self.counts.finals += sum(len(group.slots) for group in published)
        events = self.ledger.drain_events()
        if self._requests_repairs:
            self.repair_requests.note(events)
        opened, closed = self._publisher.publish_gaps(outputs, events)
        self.counts.gaps_opened += opened
        self.counts.gaps_closed += closed

    def _release_slots(self, outputs: Outputs) -> None:
        """At a tick's end: symbols that are over leave `bars`, and later their slots."""
        outputs.bars_gone = self._publisher.forget(self.listings.leave())
        self._refuse(FindingKind.UNLISTED, UNLISTED_REASON, *self.listings.give_up(self.time_ms))
        for slot in self.listings.free():
            self.clear_slot(slot)

    def _request_missing(self, outputs: Outputs) -> None:
        """Requests for what is missing and due at this tick."""
        if self._requests_repairs:
            outputs.requests += map(request_entry, self.repair_requests.due_requests(self.time_ms, self.agg_ids))
            behind = self.witnesses.due_requests(self.time_ms, lambda slot: self.agg_ids[slot] > 0)
            outputs.requests += map(request_entry, behind)
            self.counts.requests += len(outputs.requests)

    def _publish_live(self, outputs: Outputs, *, due: bool) -> None:
        """The shortest interval at every tick; others and the `bars` hash at most every `live_long_ms`, those longer
        than EACH_TURN_MS in turns. Finals wait for no turn."""
        shown = [0]
        if due:
            self.live_long_due = self.time_ms + self._live_long_ms
            shown = sorted([*self._each_turn, *self._next_in_turn()])
        self._publisher.publish_changes(outputs, shown, with_bars=due)

    def _next_in_turn(self) -> list[int]:
        """Those of the longer intervals whose turn it is."""
        count = len(self._in_turns)
        first = self.live_turn
        taken = [self._in_turns[(first + number) % count] for number in range(min(LONG_A_TURN, count))]
        self.live_turn = (first + len(taken)) % max(count, 1)
        return taken

    @property
    def open_gaps(self) -> int:
        """Gaps that are open now, over all symbols."""
        return sum(len(gaps) for gaps in self.ledger.gaps.values())

    @property
    def oldest_gap_ms(self) -> int:
        """How long ago, in exchange ms, the trade behind the oldest open gap took place; 0 if no gap is open."""
        seen_ms = min((gaps[0].after_time for gaps in self.ledger.gaps.values()), default=self.time_ms)
        return max(0, self.time_ms - seen_ms)

    @property
    def started(self) -> int:
        """Symbols that have had a trade."""
        return int((self.ledger.last_id > 0).sum())
