"""The queue of repair: order, free places, deadlines, what is served together, and jobs that come back."""

from __future__ import annotations

from ingest.repair_pages import KlinePages, TradePages
from ingest.repair_queue import Job, QueuedRequest, RepairQueue, queued_request
from klagg.intervals import MINUTE_MS
from klagg.wire.entries import REQUEST_KLINES, REQUEST_TRADES, Request

T = 1_767_268_800_000
DEADLINE = T + 30_000


def trades(
    number: int,
    first: int,
    last: int,
    symbol: str = "AUSDT",
    *,
    shard: int = 0,
    deadline_ms: int = DEADLINE,
    kept_until_ms: float = 0,
) -> QueuedRequest:
    request = Request(REQUEST_TRADES, f"r{number}", symbol, "", first, last, deadline_ms)
    return queued_request(shard, f"{number}-0", {}, request, kept_until_ms)


def klines(number: int, last: int, symbol: str = "AUSDT") -> QueuedRequest:
    request = Request(REQUEST_KLINES, f"r{number}", symbol, "1m", T - 10 * MINUTE_MS, last, T + 10 * MINUTE_MS)
    return queued_request(0, f"{number}-0", {}, request, 0)


def queue_of(*requests: QueuedRequest, size: int = 100) -> RepairQueue:
    queue = RepairQueue(size)
    for each in requests:
        queue.add(each)
    return queue


def ids_of(job: Job | None) -> list[str]:
    return [each.request.id for each in job.requests] if job else []


def test_the_oldest_comes_first_but_of_trades_the_newest() -> None:
    queue = queue_of(trades(1, 5, 9), klines(2, T), klines(3, T), trades(4, 1, 2, "BUSDT"))
    assert [ids_of(queue.next(T, 0)) for _ in range(5)] == [["r4"], ["r1"], ["r2"], ["r3"], []]


def test_an_entry_that_is_there_is_not_taken_twice() -> None:
    queue = queue_of(trades(1, 5, 9), trades(1, 5, 9))
    assert len(queue) == 1
    job = queue.next(T, 0)
    queue.add(trades(1, 5, 9))
    assert queue.next(T, 0) is None
    assert queue.holds(0, "1-0")
    assert job
    queue.done(job)
    assert not queue.holds(0, "1-0")
    # The same id in another shard is another entry.
    queue = queue_of(trades(1, 5, 9), trades(1, 5, 9, shard=1))
    assert len(queue) == 2


def test_what_is_being_served_still_counts() -> None:
    queue = queue_of(trades(1, 5, 9), trades(2, 50, 59), size=3)
    assert queue.free == 1
    job = queue.next(T, 0)
    assert queue.free == 1
    assert job
    queue.postpone(job, 0)
    assert queue.free == 1
    again = queue.next(T, 0)
    assert again is job
    queue.done(job)
    assert queue.free == 2


def test_ranges_of_a_symbol_that_overlap_or_touch_are_one_job() -> None:
    queue = queue_of(
        trades(5, 100, 199, "BUSDT"), trades(2, 300, 399), trades(1, 100, 199), trades(3, 200, 210), trades(4, 90, 120)
    )
    job = queue.next(T, 0)
    assert job
    assert sorted(ids_of(job)) == ["r1", "r3", "r4"]
    assert job.pages == TradePages("AUSDT", 90, 210)
    assert [ids_of(queue.next(T, 0)) for _ in range(2)] == [["r2"], ["r5"]]


def test_klines_wait_until_their_range_is_closed() -> None:
    queue = queue_of(klines(1, T + MINUTE_MS), trades(2, 1, 2), klines(3, T))
    assert ids_of(queue.next(T, 0)) == ["r2"]
    assert ids_of(queue.next(T, 0)) == ["r3"]
    assert queue.next(T + MINUTE_MS - 1, 0) is None
    job = queue.next(T + MINUTE_MS, 0)
    assert job
    assert isinstance(job.pages, KlinePages)
    assert ids_of(job) == ["r1"]


def test_those_past_their_deadline_leave() -> None:
    queue = queue_of(trades(1, 1, 2), trades(2, 8, 9, deadline_ms=DEADLINE + 1))
    assert queue.expire(DEADLINE, 1) == []
    assert [each.request.id for each in queue.expire(DEADLINE + 1, 1)] == ["r1"]
    assert len(queue) == 1
    assert ids_of(queue.next(T, 0)) == ["r2"]


def test_a_deadline_that_had_passed_when_it_was_read_leaves_a_while() -> None:
    """An aggregator that is behind requests with the time of its newest tick."""
    queue = queue_of(trades(1, 1, 2, kept_until_ms=5_000), trades(2, 8, 9))
    assert [each.request.id for each in queue.expire(DEADLINE + 60_000, 5_000)] == ["r2"]
    assert ids_of(job := queue.next(DEADLINE + 60_000, 5_000)) == ["r1"]
    assert job
    assert not job.is_late(DEADLINE + 60_000, 5_000)
    assert job.is_late(DEADLINE + 60_000, 5_001)


def test_a_job_that_rests_comes_again_first_or_expires_with_its_last_deadline() -> None:
    queue = queue_of(trades(3, 50, 60, "BUSDT"), trades(1, 1, 2), trades(2, 3, 4, deadline_ms=DEADLINE + 5))
    job = queue.next(T, 0)
    assert job
    queue.postpone(job, 1000.0)
    assert ids_of(queue.next(T, 999)) == ["r3"]
    assert queue.next(T, 999) is None
    assert queue.expire(DEADLINE + 5, 1) == []
    assert queue.next(T, 1000) is job
    queue.postpone(job, 0.0)
    assert {each.request.id for each in queue.expire(DEADLINE + 6, 1)} == {"r1", "r2"}
    assert queue.next(T, 2000) is None
