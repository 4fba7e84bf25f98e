"""Keeping exchange time: what fails is said once, what jumps is an alarm."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from ingest.synchroniser import LOOK_S_MAX, PAUSE_S_MAX, Synchroniser
from ingest.timings import DEFAULT_TIMINGS
from klagg.binance.rest_client import ExchangeRest
from klagg.clock import ExchangeClock, steady_ms
from klagg.errors import ExchangeRefused, ExchangeUnavailable
from klagg.process.alarms import AlarmKind
from klagg.process.stats import Stats
from tests.ingest.kit import NOW_MS, standing


class Answers(ExchangeRest):
    """A client whose round trips take no time and give what a test says: exchange ms, or an error."""

    def __init__(self, *answers: int | Exception, speed: float = 1.0) -> None:
        super().__init__("http://127.0.0.1:1")
        self.answers, self.speed = list(answers), speed

    async def synchronise(self, clock: ExchangeClock, local: object = None) -> float:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return clock.observe(steady_ms(), steady_ms(), answer, self.speed)


def a_synchroniser(
    rest: Answers, lost_s: float = 300, local_ms: Callable[[], float] = steady_ms
) -> tuple[Synchroniser, ExchangeClock, Stats]:
    clock, stats, log = ExchangeClock(), Stats(), logging.getLogger("test")
    made = Synchroniser(rest, clock, sync_s=10, lost_s=lost_s, stats=stats, log=log, local_ms=local_ms)
    return made, clock, stats


async def test_a_round_trip_sets_the_clock() -> None:
    synchroniser, clock, stats = a_synchroniser(Answers(NOW_MS))
    assert await synchroniser.once()
    assert abs(clock.now_ms(steady_ms()) - NOW_MS) < 1000
    assert synchroniser.wait_s == 10
    assert stats.counters == {"syncs": 1}
    assert stats.gauges["clock_speed"] == 1.0


async def test_a_failure_keeps_the_estimate_and_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    synchroniser, clock, stats = a_synchroniser(Answers(ExchangeUnavailable(), ExchangeUnavailable(), NOW_MS, NOW_MS))
    assert not await synchroniser.once()
    assert not await synchroniser.once()
    assert not clock.synced
    assert synchroniser.wait_s == DEFAULT_TIMINGS.sync_retry_s
    assert await synchroniser.once()
    assert [record.getMessage() for record in caplog.records] == [
        "the exchange's clock cannot be read, this machine's clock stands in: The exchange does not answer.",
        "the exchange's clock can be read again",
    ]
    assert stats.counters == {"sync_failures": 2, "syncs": 1}


@pytest.mark.parametrize(("asked_s", "waits_s"), [(0.0, 1.0), (30.0, 30.0), (259_200.0, PAUSE_S_MAX)])
async def test_the_pause_that_the_exchange_asks_for(asked_s: float, waits_s: float) -> None:
    now = [1_000_000.0]
    rest = Answers(ExchangeRefused("", status=418, retry_after_s=asked_s), NOW_MS)
    synchroniser, _, _ = a_synchroniser(rest, local_ms=lambda: now[0])
    assert not await synchroniser.once()
    waited_s = 0.0
    while len(rest.answers) == 1:
        assert 0 < synchroniser.wait_s <= LOOK_S_MAX
        waited_s += synchroniser.wait_s
        now[0] += synchroniser.wait_s * 1000
        await synchroniser.once()
    assert waited_s == waits_s


async def test_a_clock_unread_for_long_is_an_alarm_and_time_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    now = [1_000_000.0]
    rest = Answers(ExchangeRefused("", status=418, retry_after_s=3600), ExchangeUnavailable())
    synchroniser, clock, stats = a_synchroniser(rest, lost_s=300, local_ms=lambda: now[0])
    clock.observe(now[0], now[0], NOW_MS)
    for _ in range(12):
        await synchroniser.once()
        now[0] += synchroniser.wait_s * 1000
        if stats.counters.get("sync_lost"):
            break
    assert 300_000 <= now[0] - 1_000_000 <= 360_000
    assert clock.now_ms(now[0]) == NOW_MS + now[0] - 1_000_000
    alarms = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert alarms == [
        "ALARM: the exchange's clock could not be read for 300 s: time goes on by the last offset "
        "(clock.lost_s, exchange.rest_url)"
    ]
    for _ in range(5):
        await synchroniser.once()
        now[0] += synchroniser.wait_s * 1000
    assert stats.counters["sync_lost"] == 1
    assert standing(stats) == {AlarmKind.CLOCK_LOST}
    assert float(stats.gauges["clock_age_s"]) >= 300


async def test_a_held_clock_is_looked_at_often() -> None:
    rest = Answers(NOW_MS, NOW_MS, speed=0.0)
    synchroniser, _, _ = a_synchroniser(rest)
    await synchroniser.once()
    assert synchroniser.wait_s == DEFAULT_TIMINGS.sync_held_s
    rest.speed = 20.0
    await synchroniser.once()
    assert synchroniser.wait_s == 10


async def test_a_jump_is_an_alarm(caplog: pytest.LogCaptureFixture) -> None:
    synchroniser, _, stats = a_synchroniser(Answers(NOW_MS, NOW_MS + 60_000, NOW_MS + 60_100))
    for alarms in (set(), {AlarmKind.CLOCK_JUMPED}, set()):
        assert await synchroniser.once()
        assert standing(stats) == alarms
    raised, over = (record.getMessage() for record in caplog.records)
    assert raised.startswith("ALARM: the exchange's clock jumped by ")
    assert over.startswith("the alarm clock_jumped is over")


async def test_a_clock_that_is_read_again_ends_the_alarm() -> None:
    now = [1_000_000.0]
    rest = Answers(ExchangeUnavailable(), NOW_MS)
    synchroniser, clock, stats = a_synchroniser(rest, lost_s=300, local_ms=lambda: now[0])
    clock.observe(now[0], now[0], NOW_MS)
    now[0] += 400_000
    assert not await synchroniser.once()
    assert standing(stats) == {AlarmKind.CLOCK_LOST}
    assert await synchroniser.once()
    assert AlarmKind.CLOCK_LOST not in standing(stats)
