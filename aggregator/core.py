"""The aggregator itself, without any I/O: entries of the feed go in, a tick's outputs come out.

Between two ticks entries only gather; at the tick they are decoded together, pass the ledger, are folded, and then the
tick speaks. So outputs are a pure function of the log, however it was read (DESIGN §1.4).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from aggregator import columns as feed
from aggregator.columns import Columns
from aggregator.counts import Counts
from aggregator.edges import Edges
from aggregator.feed_sequences import Continuity
from aggregator.finality import Finality, Graces
from aggregator.fold import Prepared, Rows, quotes_of
from aggregator.folding import Folder
from aggregator.ledger import Ledger
from aggregator.listings import OLD_GENERATION, UNLISTED, Listings, usable_listings
from aggregator.official import Official
from aggregator.publisher import Outputs, Speaker
from aggregator.repair_requests import Asker
from aggregator.ring import AHEAD_MS, Ring, check_multiply, multiply
from aggregator.symbols import SymbolTable
from klagg import settings
from klagg.errors import ArithmeticOverflow, ConfigError, ContractError, KlaggError
from klagg.intervals import MINUTE_MS, ordered
from klagg.wire.entries import (
    EVENT_FIRST_TRADE,
    EVENT_TICK,
    LISTING,
    OFFICIAL,
    TICK,
    TRADES,
    WATERMARK,
    Listing,
    dead_entry,
    events_entry,
    request_entry,
)
from klagg.wire.fields import RawFields, integer_of, text_of, upgraded
from klagg.wire.findings import FindingKind, Severity, finding_entry
from klagg.wire.keys import FEED

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

NARROW = 1 << 15
"""Fewer slots than this are sorted by radix as 16 bit integers, eight times as fast."""

GATHERED_MAX = 20_000_000
"""Trades that may gather without a tick; beyond it the clock is surely dead and the process says so and ends."""


STEP_MS_MAX = 300_000
"""A jump of the clock is taken in steps of at most this: five minutes of 600 symbols are about 4,000 klines."""


class TicksMissing(KlaggError):
    """Trades pile up and no tick comes: the clock process does not run."""


class Core:
    """One shard's aggregator. `apply` every feed entry in order; a tick answers with Outputs.

    With `asks` False it asks for nothing that is missing: nobody is there to answer.
    """

    def __init__(self, config: settings.Aggregator, epoch: int = 0, *, asks: bool = True) -> None:
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
        self.folder = Folder(self.ring, self.finality)
        self.official = Official(self.ring, self.ledger, self.finality, self.symbols, window_ms)
        self.listings = Listings(self.symbols, self.ring, self.ledger, self.finality)
        self._asks = asks
        self.asker = Asker(self.symbols, self.ledger, self.finality, intervals, config)
        self._speaker = Speaker(self.ring, self.symbols, self.edges)
        self._window_ms = window_ms
        self._step_ms = min(self.ring.span_ms // 2, STEP_MS_MAX)
        if self._step_ms <= config.grace_without_watermark_ms:
            raise ConfigError("aggregator.grace_without_watermark_ms is too long for the shortest interval's window")
        self._live_long_ms = config.live_long_ms
        self.live_long_due = 0
        self._gathered: list[tuple[str, RawFields]] = []
        self._gathered_count = 0
        self._prepared: list[Prepared] = []
        self._watermarks: dict[bytes, int] = {}
        self._listed: list[Listing] = []
        self.held = Rows.none()
        self.agg_ids = np.zeros(self.symbols.capacity, np.int64)
        """The id space of each slot: 1 aggTrade ids, −1 fill ids, 0 not known yet."""
        self.continuity = Continuity()
        self._pending = Outputs(0)
        self.time_ms = 0
        """The last tick's time; 0 before the first."""

    def apply(self, entry_id: str, raw: RawFields) -> Iterable[Outputs]:
        """Take in one feed entry; a bad one becomes dead. A tick that does not go back answers with its outputs.

        Usually these are one. After a long gap they come in steps, each small enough for a commit of its own; the
        caller takes all of them before it applies the next entry.
        """
        try:
            entry = upgraded(raw)
            if loss := self.continuity.note(entry_id, entry, self.time_ms):
                self._pending.findings.append(loss)
            kind = text_of(entry, "kind")
            if kind == TRADES:
                self._gather(entry_id, entry)
            elif kind == TICK:
                return self._tick(integer_of(entry, "time"))
            elif kind == WATERMARK:
                self._watermark(entry)
            elif kind == LISTING:
                self._listed += usable_listings(entry)
            elif kind == OFFICIAL:
                self.official.gather(entry)
            else:
                raise ContractError(f"a feed entry of kind {kind!r} means nothing to this aggregator")
        except ContractError as bad:
            self._bury(entry_id, raw, bad)
        return ()

    def _bury(self, entry_id: str, raw: RawFields, reason: ContractError) -> None:
        """An entry that cannot be used goes to `dead` with the reason; the rest goes on."""
        self.counts.bad_entries += 1
        self._pending.dead.append(dead_entry(FEED, entry_id, "aggregator", str(reason), raw))

    def _gather(self, entry_id: str, raw: RawFields) -> None:
        self._gathered_count += feed.check_entry(raw)
        if self._gathered_count > GATHERED_MAX:
            raise TicksMissing(f"{self._gathered_count} trades came without a tick: is klagg-clock running?")
        self._gathered.append((entry_id, raw))

    def _watermark(self, raw: RawFields) -> None:
        time_ms = integer_of(raw, "time")
        text_of(raw, "symbols")
        for name in filter(None, raw[b"symbols"].split(b",")):
            self._watermarks[name] = max(time_ms, self._watermarks.get(name, time_ms))

    def _take_watermarks_and_listings(self, time_ms: int) -> None:
        """Apply watermarks and listings since the last tick. A watermark does not revive a name with a freed slot."""
        marked = {name: until for name, until in self._watermarks.items() if not self.listings.is_freed(name.decode())}
        listed = self.listings.usable(self._listed, time_ms)
        self.symbols.add_all([*marked, *(listing.symbol.encode() for listing in listed)])
        self.grow()
        self._pending.events += self.listings.take(listed, time_ms)
        self.agg_ids[self.listings.take_begun()] = 0
        for listing in listed:
            self._raise_scales(self.symbols.index[listing.symbol.encode()], listing.price_scale, listing.qty_scale)
        if marked:
            slots = self.symbols.slots_of(list(marked))
            times = np.fromiter(marked.values(), np.int64, len(slots))
            self.finality.note_watermarks(slots, times)
        self._listed, self._watermarks = [], {}

    def grow(self) -> None:
        """Follow the symbol table with every array."""
        capacity = self.symbols.capacity
        if capacity > self.ring.capacity:
            self.ring.grow(capacity)
            self.ledger.grow(capacity)
            self.finality.grow(capacity)
            self.official.grow(capacity)
            self.listings.grow(capacity)
            self.asker.grow(capacity)
            self.agg_ids = np.concatenate([self.agg_ids, np.zeros(capacity - len(self.agg_ids), np.int64)])

    def clear_slot(self, slot: int) -> None:
        """Nothing of the symbol that had the slot is left anywhere: the next one starts from nothing."""
        for part in (
            self.ring,
            self.folder,
            self.ledger,
            self.finality,
            self.edges,
            self._speaker,
            self.listings,
            self.official,
            self.asker,
            self.symbols,
        ):
            part.clear_slot(slot)
        self.agg_ids[slot] = 0

    def _raise_scales(self, slot: int, price_scale: int, qty_scale: int) -> None:
        """Scales only ever rise; what is there is multiplied exactly. Where it does not fit, the scales stay: trades
        that need more are refused one by one, and the process goes on."""
        self.folder.settle()
        price_more = max(0, price_scale - int(self.symbols.price_scale[slot]))
        qty_more = max(0, qty_scale - int(self.symbols.qty_scale[slot]))
        if not price_more and not qty_more:
            return
        own = self.held.slot == slot
        held = [(self.held.price, price_more), (self.held.qty, qty_more), (self.held.quote, price_more + qty_more)]
        try:
            check_multiply([(values[own], more) for values, more in held])
            self.ring.rescale(slot, price_more, qty_more)
        except ArithmeticOverflow as beyond:
            name, wanted = self.symbols.names[slot], f"{price_scale} and {qty_scale} decimals"
            self._pending.findings.append(
                finding_entry(
                    FindingKind.OVERFLOW, Severity.ERROR, f"{wanted}: {beyond}", symbol=name, time_ms=self.time_ms
                )
            )
            return
        for values, more in held:
            part = values[own]
            multiply(part, more)
            values[own] = part
        self.edges.rescale(slot, price_more, qty_more)
        self.symbols.price_scale[slot] += price_more
        self.symbols.qty_scale[slot] += qty_more

    def _tick(self, time_ms: int) -> Iterator[Outputs]:
        """The barrier: everything gathered is folded, and the tick speaks. A tick from the past says nothing."""
        self.counts.ticks += 1
        if time_ms < self.time_ms:
            return
        self.listings.first_tick_ms = self.listings.first_tick_ms or time_ms
        self._take_watermarks_and_listings(time_ms)
        self.official.take(self.grow, self._raise_scales, self.listings.is_freed)
        rows = self._admitted(time_ms)
        for step_ms in self._steps(time_ms, rows):
            outputs = self._pending
            outputs.time_ms, outputs.last = step_ms, step_ms == time_ms
            if step_ms // MINUTE_MS != self.time_ms // MINUTE_MS:
                self.folder.settle()
                self.official.expire(step_ms - self._window_ms)
            self.ring.advance(step_ms)
            rows = self._fold(rows, step_ms, outputs)
            due = outputs.last and time_ms >= self.live_long_due
            if due or self.folder.pressing or self.official.pressing or self.listings.ending:
                self.folder.settle()
                self._tell_first_trades(outputs)
            self.official.apply(step_ms, outputs)
            self._speaker.broken(outputs)
            self._speak(outputs, step_ms)
            if outputs.last:
                self.held, self.time_ms = rows, time_ms
                self.continuity.forget(time_ms)
                self._ask(outputs)
                self._say_live(outputs, due=due)
                self._let_go(outputs)
                outputs.events.append(events_entry(EVENT_TICK, time_ms, []))
            self._pending = Outputs(0)
            yield outputs

    def _steps(self, time_ms: int, rows: Rows) -> Iterator[int]:
        """The times at which a tick speaks: its own, and before it those at which a long jump pauses, so that no bar
        leaves the ring unpublished and a commit stays small."""
        start = self.time_ms or (min(time_ms, int(rows.time.min())) if len(rows) else time_ms)
        if start < time_ms - 2 * self._window_ms and not self.time_ms:
            start = time_ms - 2 * self._window_ms
        while start + self._step_ms < time_ms:
            start += self._step_ms
            yield start
        yield time_ms

    def take_rows(self, rows: Rows) -> None:
        """Gather trades that are integers at their symbols' scales already, each of which counts."""
        self._prepared.append(Prepared(rows, None, None))

    def _admitted(self, time_ms: int) -> Rows:
        """What gathered since the last tick, decoded, at scale and new to the ledger, with what was held back."""
        entries, self._gathered, self._gathered_count = self._gathered, [], 0
        prepared, self._prepared = self._prepared, []
        decoded = [*self._decoded(entries), *self.listings.parking.take_released()]
        if decoded:
            prepared.append(self._prepare(feed.joined(decoded)))
        rows = Rows.joined([self.held, *(self._admit(each, time_ms) for each in prepared if len(each.rows))])
        self.listings.outlive(rows)
        self._pending.events += self.listings.genesis(rows, time_ms)
        return rows

    def _decoded(self, entries: Sequence[tuple[str, RawFields]]) -> Iterator[Columns]:
        """All entries in one go; if one is bad, one by one, so that only the bad one is lost."""
        if not entries:
            return
        try:
            yield feed.decode([raw for _, raw in entries])
        except ContractError:
            for entry_id, raw in entries:
                try:
                    yield feed.decode([raw])
                except ContractError as bad:
                    self._bury(entry_id, raw, bad)

    def _prepare(self, decoded: Columns) -> Prepared:
        """Texts have become integers; here these get their symbols' slots and scales. Rows of another id space go."""
        slots = self.symbols.new_slots_of(decoded.names)
        self.grow()
        usable = self._usable(decoded, slots)
        price, price_bad = feed.at_scale(decoded.price, decoded.price_decimals, self.symbols.price_scale[slots])
        qty, qty_bad = feed.at_scale(decoded.qty, decoded.qty_decimals, self.symbols.qty_scale[slots])
        quote, quote_bad = quotes_of(price, qty)
        rows = Rows(
            slots, decoded.id, price, qty, quote, decoded.first, decoded.last, decoded.time, decoded.maker, decoded.agg
        )
        unfit = price_bad | qty_bad | quote_bad
        prepared = Prepared(rows, None if decoded.counts.all() else decoded.counts, unfit if unfit.any() else None)
        return prepared if usable.all() else prepared.take(usable)

    def _admit(self, prepared: Prepared, time_ms: int) -> Rows:
        """The rows that are new to the ledger and count, sorted by slot."""
        narrow = prepared.rows.slot.astype(np.int16 if self.symbols.capacity < NARROW else np.int64)
        prepared = prepared.take(np.argsort(narrow, kind="stable"))
        rows = prepared.rows
        keep = self.ledger.admit(rows.slot, rows.id, rows.time)
        if not keep.all():
            self.counts.duplicates += int(len(keep) - keep.sum()) - len(self.ledger.strange)
            if self.ledger.strange:
                self._park(prepared.take(np.array(self.ledger.strange, np.int64)), time_ms)
            prepared = prepared.take(keep)
        if prepared.counts is not None:
            prepared = prepared.take(prepared.counts)
        rows = prepared.rows
        if prepared.unfit is not None and prepared.unfit.any():
            lost = rows.take(prepared.unfit)
            self._refuse(FindingKind.OVERFLOW, "does not fit 64 bits at the symbol's scales", lost.slot, lost.id)
            self.ledger.lose(lost.slot, lost.id, lost.time)
            rows = rows.take(~prepared.unfit)
        self.counts.trades += len(rows)
        return rows

    def _usable(self, decoded: Columns, slots: Ints) -> Bools:
        """Rows of the symbol's one id space; also raises the scales to what the values need."""
        usable = self._of_this_generation(decoded, slots)
        for values, decimals, scales, price in (
            (decoded.price, decoded.price_decimals, self.symbols.price_scale, True),
            (decoded.qty, decoded.qty_decimals, self.symbols.qty_scale, False),
        ):
            beyond = np.flatnonzero((decimals > scales[slots]) & usable)
            if not len(beyond):
                continue
            needed = feed.significant_decimals(values[beyond], decimals[beyond])
            for slot in np.unique(slots[beyond[needed > scales[slots[beyond]]]]).tolist():
                most = int(needed[slots[beyond] == slot].max())
                self._raise_scales(slot, most if price else 0, 0 if price else most)
        space = np.where(decoded.agg, 1, -1)
        known = self.agg_ids[slots]
        if (known == space).all():
            return usable
        unknown = (known == 0) & usable
        self.agg_ids[slots[unknown]] = space[unknown]
        wrong = (self.agg_ids[slots] != space) & usable
        if wrong.any():
            usable &= ~wrong
            self._refuse(
                FindingKind.ID_SPACE, "is of the other id space than the symbol's", slots[wrong], decoded.id[wrong]
            )
        return usable

    def _of_this_generation(self, decoded: Columns, slots: Ints) -> Bools:
        """Rows that are not of a generation before; those of it that were seen are duplicates, the others refused."""
        told = self.listings.of_this_generation(slots, decoded.id, decoded.time)
        if told is None:
            return np.ones(len(slots), np.bool_)
        current, unseen = told
        self.counts.duplicates += int((~current & ~unseen).sum())
        self._refuse(FindingKind.OLD_GENERATION, OLD_GENERATION, slots[unseen], decoded.id[unseen])
        return current

    def _park(self, strange: Prepared, time_ms: int) -> None:
        """Trades that may be of a generation whose listing is still to come wait for it."""
        over = self.listings.park(strange, time_ms)
        self._refuse(FindingKind.UNLISTED, UNLISTED, strange.rows.slot[over], strange.rows.id[over])

    def _refuse(self, kind: FindingKind, why: str, slots: Ints, ids: Ints) -> None:
        """Trades that are refused: counted, and one finding a symbol."""
        self.counts.refused += len(slots)
        for slot in np.unique(slots).tolist():
            own = ids[slots == slot]
            evidence = f"{len(own)} trades, ids {own.min()} to {own.max()}: {why}"
            name = self.symbols.names[slot]
            self._pending.findings.append(
                finding_entry(kind, Severity.ERROR, evidence, symbol=name, time_ms=self.time_ms)
            )

    def _fold(self, rows: Rows, step_ms: int, outputs: Outputs) -> Rows:
        """Fold the rows that are due at this step into every interval; what is ahead of it comes back."""
        held = Rows.none()
        if not len(rows):
            return held
        if int(rows.time.max()) > step_ms + AHEAD_MS:
            ahead = rows.time > step_ms + AHEAD_MS
            held, rows = rows.take(ahead), rows.take(~ahead)
        if int(rows.time.min(initial=step_ms)) < step_ms - self._window_ms:
            old = rows.time < step_ms - self._window_ms
            self._refuse(
                FindingKind.TOO_OLD, f"is older than the window of {self._window_ms} ms", rows.slot[old], rows.id[old]
            )
            self.ledger.lose(rows.slot[old], rows.id[old], rows.time[old])
            rows = rows.take(~old)
        if not len(rows):
            return held
        mine = self.official.uncovered(rows)
        self.counts.covered += len(rows) - len(mine)
        if len(mine):
            self.edges.note(mine)
            self.folder.fold(mine, step_ms)
        return held

    def _tell_first_trades(self, outputs: Outputs) -> None:
        """The events of bars that got their first trade."""
        rows = [
            (self.symbols.names[slot], interval, opening) for slot, interval, opening in self.folder.take_first_trades()
        ]
        if rows:
            outputs.events.append(events_entry(EVENT_FIRST_TRADE, outputs.time_ms, sorted(rows)))

    def _speak(self, outputs: Outputs, step_ms: int) -> None:
        """What finality decides at this step, and what the ledger has to say."""
        floor_ms = step_ms - self._window_ms
        published = self.finality.close(step_ms)
        self.ledger.expire(floor_ms, self.ring.oldest_ms)
        self.edges.expire(floor_ms, step_ms - self.ring.span_ms)
        self._speaker.finals(outputs, published, self.epoch)
        self.counts.finals += sum(len(group.slots) for group in published)
        events = self.ledger.take_events()
        if self._asks:
            self.asker.note(events)
        opened, closed = self._speaker.gaps(outputs, events)
        self.counts.gaps_opened += opened
        self.counts.gaps_closed += closed

    def _let_go(self, outputs: Outputs) -> None:
        """At a tick's end: symbols that are over leave `bars`, and later their slots."""
        outputs.bars_gone = self._speaker.forget(self.listings.leave())
        self._refuse(FindingKind.UNLISTED, UNLISTED, *self.listings.given_up(self.time_ms))
        for slot in self.listings.free():
            self.clear_slot(slot)

    def _ask(self, outputs: Outputs) -> None:
        """What is missing and is asked for at this tick."""
        if self._asks:
            outputs.requests += map(request_entry, self.asker.ask(self.time_ms, self.agg_ids))
            self.counts.requests += len(outputs.requests)

    def _say_live(self, outputs: Outputs, *, due: bool) -> None:
        """The shortest interval at every tick, longer ones and the `bars` hash at most every `live_long_ms`."""
        if due:
            self.live_long_due = self.time_ms + self._live_long_ms
        self._speaker.changes(outputs, range(len(self.ring.intervals)) if due else (0,), with_bars=due)

    @property
    def open_gaps(self) -> int:
        """Gaps that are open now, over all symbols."""
        return sum(len(gaps) for gaps in self.ledger.gaps.values())

    @property
    def oldest_gap_ms(self) -> int:
        """How long ago (exchange time) the trade behind the oldest open gap took place; 0 if no gap is open."""
        seen_ms = min((gaps[0].after_time for gaps in self.ledger.gaps.values()), default=self.time_ms)
        return max(0, self.time_ms - seen_ms)

    @property
    def started(self) -> int:
        """Symbols that have had a trade."""
        return int((self.ledger.last_id > 0).sum())
