"""The queue of repair: requests that were read and are not served yet, and which job is next. Pure.

A request waits until its deadline, and for a while after it was read at least: an aggregator that is behind takes its
deadlines from its newest tick, so they pass before anybody reads them, and exactly then it needs what it requests.

Requests come out oldest first, but those for trades newest first: where weight is short, recent trades matter most, and
older ones are requested again. A request for klines waits until its range is closed on the exchange's clock. Requests
for trades of one symbol that wait together, and overlap or touch, are one job.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ingest.repair_pages import BehindPages, KlinePages, RepairPages, TradePages, closed_ms, union_of
from klagg.wire.entries import REQUEST_BEHIND, REQUEST_TRADES, Request
from klagg.wire.fields import Fields, RawFields


@dataclass(frozen=True, slots=True)
class QueuedRequest:
    """A request as it stands in a stream: `entry_id` in the requests of `shard`."""

    shard: int
    entry_id: str
    raw: RawFields
    request: Request
    ready_ms: int
    """Exchange time (ms) before which it cannot be served."""
    kept_until_ms: float
    """Local time (ms) until which it waits, whatever its deadline."""

    def is_late(self, now_ms: int, local_ms: float) -> bool:
        """Whether nobody waits for it any more at `now_ms` (exchange ms) and `local_ms`."""
        return self.request.deadline_ms < now_ms and self.kept_until_ms < local_ms

    @property
    def place(self) -> tuple[int, str]:
        """The entry's name: its shard and its id."""
        return self.shard, self.entry_id


def queued_request(shard: int, entry_id: str, raw: RawFields, request: Request, kept_until_ms: float) -> QueuedRequest:
    """The request with the time from which on it can be served; UnknownInterval if it names no interval."""
    return QueuedRequest(shard, entry_id, raw, request, closed_ms(request), kept_until_ms)


@dataclass(slots=True)
class Job:
    """Requests that are served together by the same calls.

    `not_before_ms` (local): the job rests until then. `undelivered`: entries of the last answer that are not in Redis.
    `early`: how often the exchange lacked the end of the range.
    """

    requests: list[QueuedRequest]
    pages: RepairPages
    not_before_ms: float = 0.0
    undelivered: list[Fields] = field(default_factory=list)
    early: int = 0

    def is_late(self, now_ms: int, local_ms: float) -> bool:
        """Whether nobody waits for it any more at `now_ms` (exchange ms) and `local_ms`."""
        return all(each.is_late(now_ms, local_ms) for each in self.requests)


class RepairQueue:
    """Holds at most `size` requests, those being served included."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._waiting: dict[tuple[int, str], QueuedRequest] = {}
        self._postponed: list[Job] = []
        self._held: set[tuple[int, str]] = set()

    def __len__(self) -> int:
        return len(self._held)

    @property
    def free(self) -> int:
        """How many more requests fit."""
        return self._size - len(self._held)

    def holds(self, shard: int, entry_id: str) -> bool:
        """Whether this entry is waiting or being served."""
        return (shard, entry_id) in self._held

    def add(self, queued: QueuedRequest) -> None:
        """Queue a request; one that is here already changes nothing."""
        if queued.place not in self._held:
            self._held.add(queued.place)
            self._waiting[queued.place] = queued

    def expire(self, now_ms: int, local_ms: float) -> list[QueuedRequest]:
        """Remove the waiting requests that are late at `now_ms` (exchange ms) and `local_ms`; the result are those."""
        late = [each for each in self._waiting.values() if each.is_late(now_ms, local_ms)]
        for each in late:
            del self._waiting[each.place]
        for job in [each for each in self._postponed if each.is_late(now_ms, local_ms)]:
            self._postponed.remove(job)
            late += job.requests
        self._release(late)
        return late

    def next(self, now_ms: int, local_ms: float) -> Job | None:
        """The job that is due at `now_ms` (exchange ms) and `local_ms`; its requests count until `done`."""
        for job in self._postponed:
            if job.not_before_ms <= local_ms:
                self._postponed.remove(job)
                return job
        first = next((each for each in self._waiting.values() if each.ready_ms <= now_ms), None)
        if first and first.request.kind == REQUEST_TRADES:
            newest = reversed(self._waiting.values())
            first = next(each for each in newest if each.request.kind == REQUEST_TRADES and each.ready_ms <= now_ms)
        return self._job(first) if first else None

    def _job(self, first: QueuedRequest) -> Job:
        request = first.request
        if request.kind != REQUEST_TRADES:
            del self._waiting[first.place]
            behind = request.kind == REQUEST_BEHIND
            return Job([first], BehindPages(request.symbol, request.first) if behind else KlinePages(request))
        alike = [
            each
            for each in self._waiting.values()
            if each.request.kind == REQUEST_TRADES and each.request.symbol == request.symbol
        ]
        ranges = [(each.request.first, each.request.last) for each in alike]
        low, high = union_of(ranges, (request.first, request.last))
        together = [each for each in alike if low <= each.request.first and each.request.last <= high]
        for each in together:
            del self._waiting[each.place]
        return Job(together, TradePages(request.symbol, low, high))

    def postpone(self, job: Job, until_ms: float) -> None:
        """The job did not work: it is due again at `until_ms` (local ms)."""
        job.not_before_ms = until_ms
        self._postponed.append(job)

    def done(self, job: Job) -> None:
        """The job is over: its requests leave the queue."""
        self._release(job.requests)

    def _release(self, requests: Iterable[QueuedRequest]) -> None:
        self._held.difference_update(each.place for each in requests)
