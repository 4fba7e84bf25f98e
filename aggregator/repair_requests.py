"""Requests for what is missing: gaps that stay open, and the past of symbols that were joined midway. Pure.

Every need has a due time, and at a tick only the needs that are due are looked at. A need that was requested is due
again after the request's deadline, until the core has what was requested. All of it is a function of the log: times are
exchange times of ticks, and the ids of requests follow from their content. So a restart requests nothing twice.

Trades are requested by id while the token bucket affords it, those of the newest minute first; gaps of a symbol that
are near each other wait together and cost one page. What cannot be paid within a minute heals from the exchange's
klines.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

import numpy as np

from aggregator.arrays import Ints
from aggregator.finality import Finality
from aggregator.ledger import NO_TIME, NONE, Gap, GapEvent, Ledger
from aggregator.repair_budget import PAGE_IDS, TokenBucket, cost_of
from aggregator.symbols import SymbolTable
from klagg.binance.contracts import is_open
from klagg.intervals import DAY_MS, HOUR_MS, MINUTE, MINUTE_MS, Interval
from klagg.settings import Aggregator
from klagg.wire.entries import REQUEST_KLINES, REQUEST_TRADES, Request

REQUESTS_MAX = 200
"""Requests in one tick; further needs wait for the next tick, the oldest first."""
UNPAID_MS = 1_000
"""A need that the bucket cannot pay now is looked at again after this long."""
RIPE_MS = 45_000
"""While weight is short, a page is requested when no more gaps fit into it, or when its oldest gap is this old."""
BY_TRADES, BY_KLINES, ONCE_MORE, AT_LAST = 0, 1, 2, 3
"""How a gap is to heal (Need.way): by its trades, as long as they are affordable; else by klines; if these did not
help, once more by its trades; at last by klines alone."""
KLINES_TRIES = 2
"""Requests for klines in place of trades that cost too much, after which their trades are requested all the same."""
TRADES_TRIES = 3
"""Requests for trades without success, after which klines are requested. The waits between them are exchange time: an
aggregator that catches up with minutes of feed must not have used up its tries before anybody could answer."""
GAP_WAIT_MS, GAP_WAIT_MS_MAX = 30_000, 300_000
START_WAIT_MS, START_WAIT_MS_MAX = 120_000, 600_000
KLINES_LATE_MS = 3_000
"""The exchange's klines may appear this much after their close."""

START_REQUESTS = 3
"""The most requests of one cold start: minutes, hours, days."""
START = -1
"""The key of a symbol's cold start among its needs; the others are the first ids of gaps."""
UNSEEN, BY_WATERMARK, BY_TRADE = 0, 1, 2
"""How a symbol was joined: not yet, by a line that carries it, by a trade."""

_from_id: Callable[[Gap], int] = attrgetter("from_id")


@dataclass(slots=True)
class Need:
    """Something that is missing. All times are exchange ms.

    `due_ms`: when to look at it next. `tries`: requests so far. `deadline_ms`: that of the last request; klines were
    requested by then of minutes that opened before `requested_ms`. `way`: BY_TRADES and so on.
    """

    due_ms: int
    tries: int = 0
    deadline_ms: int = NO_TIME
    requested_ms: int = NO_TIME
    way: int = BY_TRADES


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring gaps of a slot that one request would serve; `full`: the next one does not fit into its page."""

    slot: int
    gaps: Sequence[Gap]
    full: bool

    @property
    def cost(self) -> int:
        """The REST weight of the request."""
        return cost_of(self.gaps[0].from_id, self.gaps[-1].to_id)

    @property
    def rank(self) -> tuple[int, float]:
        """Sorts the newest minute first, and in a minute what brings the most gaps for its weight."""
        return -MINUTE.open_time(self.gaps[-1].after_time), -len(self.gaps) / self.cost


class RepairRequests:
    """Decides what is requested at a tick. Reads the ledger and finality; changes neither."""

    def __init__(
        self,
        symbols: SymbolTable,
        ledger: Ledger,
        finality: Finality,
        intervals: Sequence[Interval],
        config: Aggregator,
    ) -> None:
        self._symbols, self._ledger, self._finality = symbols, ledger, finality
        self._intervals = tuple(each for each in intervals if each.shortest_ms >= MINUTE_MS)
        self._request_after_ms, self._window_ms = config.ask_after_ms, config.window_minutes * MINUTE_MS
        self._ids_max, self.bucket = config.ask_trades_max, TokenBucket(config.ask_weight_per_minute)
        self._events: list[GapEvent] = []
        self.needs: dict[int, dict[int, Need]] = {}
        """By slot, by the first id of the gap (START: the cold start)."""
        self._queue: list[tuple[int, int, int]] = []
        """(due, slot, key), a heap; what does not agree with `needs` is stale."""
        self.joined: Ints = np.zeros(symbols.capacity, np.int64)
        self.joined_ms: Ints = np.full(symbols.capacity, NO_TIME, np.int64)
        """By slot, how it was joined (UNSEEN and so on), and the open time (exchange ms) of the minute of joining."""

    def grow(self, capacity: int) -> None:
        """Make the arrays by slot this long."""
        more = capacity - len(self.joined)
        self.joined = np.concatenate([self.joined, np.zeros(more, np.int64)])
        self.joined_ms = np.concatenate([self.joined_ms, np.full(more, NO_TIME, np.int64)])

    def clear_slot(self, slot: int) -> None:
        """Forget the needs of the slot's symbol."""
        self.needs.pop(slot, None)
        self._events = [event for event in self._events if event.slot != slot]
        self.joined[slot], self.joined_ms[slot] = UNSEEN, NO_TIME

    def note(self, events: Sequence[GapEvent]) -> None:
        """Note gaps that opened and ended, in their order, for the next `due_requests`."""
        self._events += events

    def state(self) -> dict[str, list[list[int]]]:
        """The state for a checkpoint, right after `due_requests`: needs, joined slots, and the token bucket."""
        count = self._symbols.count
        needs = [
            [slot, key, need.due_ms, need.tries, need.deadline_ms, need.requested_ms, need.way]
            for slot, own in sorted(self.needs.items())
            for key, need in sorted(own.items())
        ]
        joined = [self.joined[:count].tolist(), self.joined_ms[:count].tolist()]
        return {"needs": needs, "joined": joined, "budget": [[self.bucket.held, self.bucket.time_ms]]}

    def put_back(self, state: Mapping[str, Sequence[Sequence[int]]]) -> None:
        """Put a `state` back; the symbol table must have its slots already."""
        joined, joined_ms = state["joined"]
        self.joined[: len(joined)], self.joined_ms[: len(joined_ms)] = joined, joined_ms
        for held, time_ms in state.get("budget", ()):
            self.bucket.held, self.bucket.time_ms = held, time_ms
        self.needs = {}
        for slot, key, *values in state["needs"]:
            self.needs.setdefault(slot, {})[key] = Need(*values)
        self.order()

    def due_requests(self, time_ms: int, agg_ids: Ints) -> list[Request]:
        """The requests of the tick at `time_ms` (exchange ms).

        `agg_ids` (int64 [capacity]) is −1 where ids are those of fills: gaps in these are requested as klines.
        """
        self._note_events(time_ms)
        self._look_for_starts(time_ms)
        self.bucket.refill(time_ms)
        requests: list[Request] = []
        runs: list[Run] = []
        while self._queue and self._queue[0][0] <= time_ms:
            due_ms, slot, key = self._queue[0]
            need = self.needs.get(slot, {}).get(key)
            if need is None or need.due_ms != due_ms:
                heapq.heappop(self._queue)
                continue
            if len(requests) + (START_REQUESTS if key == START else 1) > REQUESTS_MAX:
                break
            heapq.heappop(self._queue)
            requests += self._start(slot, time_ms) if key == START else self._gap(slot, key, time_ms, agg_ids, runs)
        requests += self._request_trades(runs, REQUESTS_MAX - len(requests), time_ms)
        self._sweep()
        return requests

    # --- needs ---

    def _put(self, slot: int, key: int, need: Need) -> None:
        self.needs.setdefault(slot, {})[key] = need
        heapq.heappush(self._queue, (need.due_ms, slot, key))

    def _drop(self, slot: int, key: int) -> Need | None:
        own = self.needs.get(slot, {})
        need = own.pop(key, None)
        if not own:
            self.needs.pop(slot, None)
        return need

    def _sweep(self) -> None:
        """Stale places in the queue are bounded by the number of needs."""
        if len(self._queue) > 2 * sum(map(len, self.needs.values())) + REQUESTS_MAX:
            self.order()

    def order(self) -> None:
        """Build the queue anew from the needs."""
        self._queue = [(need.due_ms, slot, key) for slot, own in self.needs.items() for key, need in own.items()]
        heapq.heapify(self._queue)

    def _note_events(self, time_ms: int) -> None:
        """Turn gap events into needs. A gap that shrank ends, and its rest opens: that is still the same need."""
        ended: dict[int, tuple[Gap, Need]] = {}
        for event in self._events:
            slot, gap = event.slot, event.gap
            if event.reason:
                need = self._drop(slot, gap.from_id)
                if need is not None:
                    ended[slot] = gap, need
                continue
            whole, before = ended.get(slot, (gap, None))
            if before is not None and whole.from_id <= gap.from_id and gap.to_id <= whole.to_id:
                need = replace(before)
            else:
                need = Need(time_ms + self._request_after_ms)
            self._put(slot, gap.from_id, need)
        self._events = []

    def _look_for_starts(self, time_ms: int) -> None:
        """Symbols that had their first trade, or their first watermark without any trade, since the last tick."""
        count = self._symbols.count
        joined, traded = self.joined[:count], self._ledger.last_id[:count] != NONE
        for slot in np.flatnonzero(traded & (joined != BY_TRADE)).tolist():
            joined_ms, start_ms = int(self.joined_ms[slot]), int(self._ledger.start_time[slot])
            self._drop(slot, START)
            if start_ms == NO_TIME:  # nothing came before its first trade
                self.joined[slot] = BY_TRADE
            else:
                self._join(slot, BY_TRADE, start_ms if start_ms >= joined_ms else time_ms)
        carried = ~traded & (joined == UNSEEN) & (self._finality.alive_until[:count] != NO_TIME)
        for slot in np.flatnonzero(carried).tolist():
            if is_open(self._symbols.statuses[slot]):
                self._join(slot, BY_WATERMARK, time_ms)

    def _join(self, slot: int, how: int, time_ms: int) -> None:
        minute_ms = MINUTE.open_time(time_ms)
        self.joined[slot], self.joined_ms[slot] = how, minute_ms
        self._put(slot, START, Need(minute_ms + MINUTE_MS + KLINES_LATE_MS))

    # --- cold start ---

    def _start(self, slot: int, time_ms: int) -> list[Request]:
        """Requests for the past of a symbol; none when it is known, or when no bar is left that it would complete.

        A symbol that has not traded yet proves nothing by itself, so its past is requested again and again."""
        need, quiet = self.needs[slot][START], self.joined[slot] == BY_WATERMARK
        if quiet:
            self.joined_ms[slot] = MINUTE.open_time(time_ms - KLINES_LATE_MS) - MINUTE_MS
        minute_ms = int(self.joined_ms[slot])
        ranges = self._unknown_past(slot, minute_ms, MINUTE.open_time(time_ms - self._window_ms) + MINUTE_MS)
        over_ms = max((each.close_time(minute_ms) for each in self._intervals), default=minute_ms)
        over = not ranges or over_ms < time_ms - self._window_ms
        if not is_open(self._symbols.statuses[slot]) if quiet else over:
            self._drop(slot, START)
            return []
        deadline_ms = time_ms + min(START_WAIT_MS << min(need.tries, 10), START_WAIT_MS_MAX)
        self._put(slot, START, Need(deadline_ms, need.tries + 1, deadline_ms))
        return [
            self._request(REQUEST_KLINES, slot, interval, first, last, self.needs[slot][START])
            for interval, first, last in ranges
        ]

    def _unknown_past(self, slot: int, minute_ms: int, floor_ms: int) -> list[tuple[str, int, int]]:
        """Those of a symbol's `start_ranges` whose beginning is not known; and the minutes, from `floor_ms` on, that
        its bars closed empty before it ever traded, as no id proves these."""
        start_ms, official_ms = int(self._ledger.start_time[slot]), int(self._finality.official_until[slot])
        first_ms = minute_ms
        if self.joined[slot] == BY_WATERMARK:  # the past ends where its bars begin, or are to begin
            begun_ms = int(self._finality.begun[slot]) * MINUTE_MS
            begins_ms = begun_ms if official_ms != NO_TIME else int(self._finality.carried_from[slot])
            if begins_ms - MINUTE_MS >= floor_ms:
                first_ms = min(minute_ms, begins_ms - MINUTE_MS)
        unknown = []
        for interval, first, last in start_ranges(first_ms, self._intervals):
            if interval == MINUTE.name:
                last = minute_ms + MINUTE_MS
            if interval == MINUTE.name and official_ms != NO_TIME:
                since_ms = max(official_ms, floor_ms)
                if self.joined[slot] == BY_WATERMARK and start_ms < first:
                    first = since_ms
                elif since_ms <= start_ms:
                    first = min(first, since_ms)
                if first < last and (self.joined[slot] == BY_WATERMARK or start_ms >= first):
                    unknown.append((interval, first, last))
            elif start_ms >= first or (official_ms == NO_TIME and self.joined[slot] == BY_WATERMARK):
                unknown.append((interval, first, last))
        return unknown

    # --- gaps ---

    def _gap(self, slot: int, key: int, time_ms: int, agg_ids: Ints, runs: list[Run]) -> list[Request]:
        """A gap that is due: a request for klines, or it goes to `runs` with the neighbours that fit into its page."""
        gaps = self._ledger.gaps.get(slot, [])
        at = bisect_left(gaps, key, key=_from_id)
        if at == len(gaps) or gaps[at].from_id != key:
            self._drop(slot, key)
            return []
        gap, need = gaps[at], self.needs[slot][key]
        if need.way == BY_KLINES and need.tries >= KLINES_TRIES:
            need.way = ONCE_MORE
        wide = gap.to_id - gap.from_id >= self._ids_max
        tried = need.way == BY_TRADES and need.tries >= TRADES_TRIES
        if agg_ids[slot] < 0 or wide or tried or need.way in (BY_KLINES, AT_LAST):
            return self._request_klines(slot, gaps, at, time_ms)
        first = last = at
        while first and self._joins(slot, gaps, first - 1, first, need, time_ms) and _page(gaps, first - 1, last):
            first -= 1
        while last + 1 < len(gaps) and (more := self._joins(slot, gaps, last, last + 1, need, time_ms)):
            if not _page(gaps, first, last + 1):
                break
            last += 1
        else:
            more = False
        run = Run(slot, gaps[first : last + 1], full=more)
        for each in run.gaps:  # whichever of them is due next, they are looked at together
            self._put(slot, each.from_id, replace(self.needs[slot][each.from_id], due_ms=time_ms + UNPAID_MS))
        runs.append(run)
        return []

    def _request_trades(self, runs: list[Run], room: int, time_ms: int) -> list[Request]:
        """Requests for the trades of these runs that the bucket can pay; what it cannot pay soon heals from klines."""
        requests: list[Request] = []
        soon = self.bucket.within_a_minute()
        for run in sorted(runs, key=attrgetter("rank")):
            need = self.needs[run.slot][run.gaps[0].from_id]
            affordable = run.cost <= soon
            if affordable:
                soon -= run.cost
            ripe = self.bucket.plenty or run.full or time_ms - run.gaps[0].after_time >= RIPE_MS
            if affordable and ripe and len(requests) < room and self.bucket.spend(run.cost):
                deadline_ms, way = time_ms + _gap_wait_ms(need.tries), need.way and AT_LAST
                then = Need(deadline_ms, need.tries + 1, deadline_ms, way=way)
                requests.append(
                    self._request(REQUEST_TRADES, run.slot, "", run.gaps[0].from_id, run.gaps[-1].to_id, then)
                )
            elif affordable:
                then = replace(need, due_ms=time_ms + (UNPAID_MS if len(requests) < room else 1))
            else:
                then = replace(need, due_ms=time_ms + 1, way=AT_LAST if need.way else BY_KLINES)
            for each in run.gaps:
                self._put(run.slot, each.from_id, replace(then))
        return requests

    def _joins(self, slot: int, gaps: Sequence[Gap], left: int, right: int, like: Need, time_ms: int) -> bool:
        """Whether neither of these two neighbours waits for an answer, or was requested more often than `like`. One
        that is not due yet joins all the same, because the page costs no more."""
        needs = [self.needs.get(slot, {}).get(gaps[at].from_id) for at in (left, right)]
        return all(need and _alike(need, like) and need.deadline_ms <= time_ms for need in needs)

    def _due(self, slot: int, gap: Gap, like: Need, time_ms: int) -> Need | None:
        need = self.needs.get(slot, {}).get(gap.from_id)
        return need if need is not None and need.due_ms <= time_ms and _alike(need, like) else None

    def _request_klines(self, slot: int, gaps: Sequence[Gap], at: int, time_ms: int) -> list[Request]:
        """A request for the closed minutes that a gap touches; open ones are requested when they are over."""
        need = self.needs[slot][gaps[at].from_id]
        first_ms, last_ms = _minutes(gaps[at], need, time_ms)
        if first_ms >= last_ms:
            due_ms = max(first_ms, MINUTE.open_time(time_ms - KLINES_LATE_MS)) + MINUTE_MS + KLINES_LATE_MS
            if first_ms >= _end(gaps[at]):
                due_ms = max(need.deadline_ms, time_ms + 1)
            self._put(slot, gaps[at].from_id, replace(need, due_ms=due_ms))
            return []
        together = [gaps[at]]
        for side in (range(at - 1, -1, -1), range(at + 1, len(gaps))):
            for each in side:
                other = self._due(slot, gaps[each], need, time_ms)
                low_ms, high_ms = _minutes(gaps[each], other, time_ms) if other else (0, 0)
                if other is None or low_ms >= high_ms or low_ms > last_ms or high_ms < first_ms:
                    break
                first_ms, last_ms = min(first_ms, low_ms), max(last_ms, high_ms)
                together.append(gaps[each])
        deadline_ms = time_ms + _gap_wait_ms(need.tries)
        then = Need(deadline_ms, need.tries + 1, deadline_ms)
        for gap in together:
            end_ms = _end(gap)
            due_ms = deadline_ms if end_ms <= last_ms else min(deadline_ms, end_ms + KLINES_LATE_MS)
            self._put(slot, gap.from_id, Need(due_ms, then.tries, deadline_ms, last_ms, need.way))
        return [self._request(REQUEST_KLINES, slot, MINUTE.name, first_ms, last_ms, then)]

    def _request(self, kind: str, slot: int, interval: str, first: int, last: int, need: Need) -> Request:
        name = self._symbols.names[slot]
        request_id = f"{name}/{interval or kind}/{first}-{last}/{need.tries}"
        return Request(kind, request_id, name, interval, first, last, need.deadline_ms)


def start_ranges(minute_ms: int, intervals: Sequence[Interval]) -> list[tuple[str, int, int]]:
    """What completes the bars of a symbol whose first minute seen live, perhaps in part, opens at `minute_ms`.

    (interval, from, to) in exchange ms, `to` exclusive: minutes of its hour, hours of its day, days of its longest bar.
    Empty ranges are left out.
    """
    earliest_ms = min((each.open_time(minute_ms) for each in intervals), default=minute_ms)
    hour_ms, day_ms = minute_ms - minute_ms % HOUR_MS, minute_ms - minute_ms % DAY_MS
    ranges = (("1m", hour_ms, minute_ms + MINUTE_MS), ("1h", day_ms, hour_ms), ("1d", earliest_ms, day_ms))
    clipped = [(name, max(first, earliest_ms), last) for name, first, last in ranges]
    return [each for each in clipped if each[1] < each[2]]


def _page(gaps: Sequence[Gap], first: int, last: int) -> bool:
    """Whether these gaps and what lies between them fit into one page of trades."""
    return gaps[last].to_id - gaps[first].from_id < PAGE_IDS


def _alike(need: Need, like: Need) -> bool:
    return (need.tries, need.way) == (like.tries, like.way)


def _gap_wait_ms(tries: int) -> int:
    return min(GAP_WAIT_MS << min(tries, 10), GAP_WAIT_MS_MAX)


def _end(gap: Gap) -> int:
    """The end of the last minute that a gap touches."""
    return MINUTE.open_time(gap.after_time) + MINUTE_MS


def _minutes(gap: Gap, need: Need, time_ms: int) -> tuple[int, int]:
    """The open times [first, last) of the gap's minutes that are over and for which no request is under way."""
    first_ms = MINUTE.open_time(gap.before_time)
    if time_ms < need.deadline_ms:
        first_ms = max(first_ms, need.requested_ms)
    return first_ms, min(_end(gap), MINUTE.open_time(time_ms - KLINES_LATE_MS))
