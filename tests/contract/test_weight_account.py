"""The account of REST weight on a Redis, fake or real: its scripts, several clients, and what the exchange says.

Redis' own clock decides which minute it is. So that no test depends on when it runs, the times during which an ask
counts for a neighbouring minute too are widened until several minutes share every ask.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from klagg.binance import weight_account
from klagg.binance.weight_account import (
    ROLE_AUDIT,
    ROLE_BACKFILL,
    ROLE_CLOCK,
    ROLE_PASS_THROUGH,
    ROLE_REPAIR,
    HastyGate,
    PatientGate,
    Share,
    audit_share,
    report_weight,
    share_of,
    spend_weight,
)
from klagg.drivers.redis_streams import AsyncStreams
from klagg.errors import ExchangeRefused, RedisRefused, RedisUnavailable
from klagg.process.stats import Stats
from klagg.settings import Audit, Rest
from klagg.wire.keys import WEIGHTS_KEY
from tests.contract.conftest import Place
from tests.contract.kit import closed_port

WIDE_MS = 3 * 60_000
SHARE = Share(60, 90)


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_account, "SKEW_MS", WIDE_MS)
    monkeypatch.setattr(weight_account, "FLIGHT_MS", WIDE_MS)


@pytest.fixture
async def streams(place: Place) -> AsyncIterator[AsyncStreams]:
    client = place.async_streams()
    yield client
    await client.close()


async def account(streams: AsyncStreams) -> dict[str, int]:
    """The fields of the account that speak of weight."""
    found = await streams.hash_of(WEIGHTS_KEY)
    return {name.decode(): int(value) for name, value in found.items() if name != b"until"}


async def test_a_share_is_used_up_and_not_a_unit_more(streams: AsyncStreams) -> None:
    granted = [await spend_weight(streams, ROLE_REPAIR, 20, SHARE) for _ in range(4)]
    assert [each.granted for each in granted] == [True, True, True, False]
    refused = granted[-1]
    # Free again when the last minute that these asks may count for is over.
    assert WIDE_MS <= refused.wait_ms <= 3 * WIDE_MS
    assert not refused.paused
    assert not (await spend_weight(streams, ROLE_REPAIR, 1, SHARE)).granted


async def test_an_ask_is_charged_to_every_minute_that_may_see_it(streams: AsyncStreams) -> None:
    minute = (await spend_weight(streams, ROLE_REPAIR, 20, SHARE)).minute
    found = await account(streams)
    assert {found[f"{at}:{who}"] for at in range(minute - 3, minute + 4) for who in ("all", "repair")} == {20}
    assert len(found) == 14


async def test_the_limit_holds_over_all_roles_and_the_clock_has_what_they_leave(streams: AsyncStreams) -> None:
    assert (await spend_weight(streams, "audit", 60, SHARE)).granted
    assert (await spend_weight(streams, ROLE_REPAIR, 30, SHARE)).granted
    assert not (await spend_weight(streams, ROLE_REPAIR, 1, SHARE)).granted
    clock = Share(100, 100)
    assert (await spend_weight(streams, ROLE_CLOCK, 10, clock)).granted
    assert not (await spend_weight(streams, ROLE_CLOCK, 1, clock)).granted


async def test_many_at_once_never_get_more_than_there_is(streams: AsyncStreams, place: Place) -> None:
    others = [place.async_streams() for _ in range(4)]
    taken = await asyncio.gather(*(spend_weight(client, ROLE_REPAIR, 7, SHARE) for client in others for _ in range(20)))
    assert sum(each.granted for each in taken) == 60 // 7
    for each in others:
        await each.close()


async def test_minutes_that_are_over_are_forgotten(streams: AsyncStreams, place: Place) -> None:
    minute = (await spend_weight(streams, ROLE_REPAIR, 1, SHARE)).minute
    old = f"{minute - 9}:all"
    await streams.run_script("redis.call('HSET', KEYS[1], ARGV[1], '9') return {}", WEIGHTS_KEY, [old])
    await spend_weight(streams, ROLE_REPAIR, 1, SHARE)
    assert old not in await account(streams)


async def test_what_others_use_is_learnt_from_the_exchange(
    streams: AsyncStreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_account, "SKEW_MS", 0)  # its figure is of this minute, however young that is
    for _ in range(3):  # the minute may end in between, once
        minute = (await spend_weight(streams, ROLE_REPAIR, 1, SHARE)).minute
        await report_weight(streams, minute, 80, 0.0)
        await report_weight(streams, minute, 5, 0.0)  # an older answer that comes late takes nothing back
        if (await account(streams))[f"{minute}:all"] == 80:
            break
    assert (await account(streams))[f"{minute}:all"] == 80
    assert not (await spend_weight(streams, ROLE_REPAIR, 11, SHARE)).granted
    assert (await spend_weight(streams, ROLE_REPAIR, 10, SHARE)).granted


async def test_a_figure_that_may_be_of_the_minute_before_is_left_out(streams: AsyncStreams) -> None:
    minute = (await spend_weight(streams, ROLE_REPAIR, 1, SHARE)).minute
    await report_weight(streams, minute, 80, 0.0)  # with this skew every figure may be
    await report_weight(streams, minute - 1, 80, 0.0)
    assert (await account(streams))[f"{minute}:all"] == 1


async def test_a_pause_holds_for_everybody_and_is_never_shortened(streams: AsyncStreams) -> None:
    await report_weight(streams, 0, 0, 100.0)
    await report_weight(streams, 0, 0, 1.0)
    for role in (ROLE_REPAIR, ROLE_CLOCK):
        answer = await spend_weight(streams, role, 1, SHARE)
        assert (answer.granted, answer.paused) == (False, True)
        assert 90_000 < answer.wait_ms <= 100_000
    assert await account(streams) == {}


async def test_a_pause_ends(streams: AsyncStreams) -> None:
    await report_weight(streams, 0, 0, 0.05)
    async with asyncio.timeout(10):
        while not (await spend_weight(streams, ROLE_REPAIR, 1, SHARE)).granted:
            await asyncio.sleep(0.01)


async def test_a_patient_gate_waits_for_its_turn(streams: AsyncStreams) -> None:
    stats, slept = Stats(), []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await streams.delete(WEIGHTS_KEY)

    gate = PatientGate(streams, ROLE_REPAIR, Rest(weight_per_minute=100), stats, sleep)
    for _ in range(4):
        await gate.enter(20)
    assert len(slept) == 1
    assert slept[0] >= weight_account.WAIT_S_MAX
    assert stats.counters["weight"] == 80


async def test_a_hasty_gate_refuses_at_once_and_says_until_when(streams: AsyncStreams) -> None:
    gate = HastyGate(streams, ROLE_CLOCK, Rest(weight_per_minute=100), Stats())
    await gate.enter(100)
    with pytest.raises(ExchangeRefused, match="weight of the minute is used up") as refused:
        await gate.enter(1)
    assert refused.value.status == 429
    assert refused.value.retry_after_s >= WIDE_MS / 1000
    await gate.leave(0, 0, 2000.0)
    with pytest.raises(ExchangeRefused, match="the exchange asked for a pause") as refused:
        await gate.enter(1)
    assert 1900 < refused.value.retry_after_s <= 2000


async def test_without_redis_a_hasty_gate_is_open_and_a_patient_one_is_not() -> None:
    away = AsyncStreams(f"redis://127.0.0.1:{closed_port()}/0", timeout_ms=500)
    stats = Stats()
    hasty = HastyGate(away, ROLE_CLOCK, Rest(weight_per_minute=1200), stats)
    await hasty.leave(await hasty.enter(1), 5, 0.0)
    assert stats.gauges == {"weight_limit": 1200, "weight_of_minute": 5}
    with pytest.raises(RedisUnavailable):
        await PatientGate(away, ROLE_REPAIR, Rest(), Stats()).enter(1)
    await away.close()


async def test_a_script_that_fails_is_refused(streams: AsyncStreams) -> None:
    with pytest.raises(RedisRefused, match="running a script"):
        await streams.run_script("return nonsense(", WEIGHTS_KEY, [])


def test_shares() -> None:
    assert share_of(ROLE_REPAIR, Rest()) == Share(1440, 2160)
    assert share_of(ROLE_BACKFILL, Rest(share_backfill_percent=25)) == Share(600, 2160)
    assert share_of(ROLE_PASS_THROUGH, Rest(share_pass_through_percent=5)) == Share(120, 2160)
    assert share_of("audit", Rest(share_repair_percent=30, share_clock_percent=20)) == Share(720, 1920)
    assert share_of(ROLE_CLOCK, Rest()) == Share(2400, 2400)


async def test_the_auditor_of_the_exchange_has_a_weight_of_its_own(streams: AsyncStreams) -> None:
    """A percent of the limit, beside all others, and never out of what is left for the clock."""
    share = audit_share(Rest(), Audit())
    assert share == Share(24, 2160)
    for _ in range(24):
        assert (await spend_weight(streams, ROLE_AUDIT, 1, share)).granted
    assert not (await spend_weight(streams, ROLE_AUDIT, 1, share)).granted
    assert (await spend_weight(streams, ROLE_REPAIR, 20, share_of(ROLE_REPAIR, Rest()))).granted
    gate = PatientGate(streams, ROLE_AUDIT, Rest(), Stats(), share=Share(60, 90))
    await gate.enter(20)
    assert max((await account(streams)).values()) >= 44
