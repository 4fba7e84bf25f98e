"""The REST weight of this address: one account in Redis from which every process spends before it calls the exchange.

The exchange counts weight per address and calendar minute of real time. A call that is on its way when the minute ends
may count for either, so it is charged to every minute in which the exchange may receive it, and the limit holds in
each of them. The minute is that of Redis' clock, which is one clock for all processes. What others behind the same
address use is learnt from the exchange's answers (`X-MBX-USED-WEIGHT-1M`). After 429 or 418 no process calls before the
time that the exchange named (Binance USDⓈ-M docs, "General Info", "IP Limits").
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from klagg import settings
from klagg.drivers.statements import load_statements
from klagg.errors import ExchangeRefused, RedisRefused, RedisUnavailable
from klagg.process.stats import Stats
from klagg.wire.keys import WEIGHTS_KEY

ROLE_CLOCK: Final = "clock"
ROLE_REPAIR: Final = "repair"
ROLE_BACKFILL: Final = "backfill"
ROLE_AUDIT: Final = "audit"
ROLE_PASS_THROUGH: Final = "pass_through"

SKEW_MS: Final = 1_000
"""How far Redis' clock and the exchange's may differ."""

FLIGHT_MS: Final = 3_000
"""How long a call may be on its way until the exchange counts it."""

HASTE_S: Final = 0.25
"""The longest that a hasty gate waits for Redis."""

WAIT_S_MAX: Final = 65.0
"""The longest sleep of a patient gate before it looks again."""

_SCRIPTS: Final = load_statements(Path(__file__).with_suffix(".lua"))


class Scripts(Protocol):
    """What this module needs of klagg.drivers.redis_streams.AsyncStreams."""

    async def run_script(self, script: str, key: str, arguments: Sequence[str | int]) -> list[int]:
        """EVAL of a Lua script over one key; it answers with integers."""


@dataclass(frozen=True, slots=True)
class Share:
    """What a role may use of a minute's weight: `own` by itself, and `total` together with everybody else."""

    own: int
    total: int


def share_of(role: str, rest: settings.Rest) -> Share:
    """The share of a role: all of the limit for the clock, of which the others must leave its share free."""
    limit = rest.weight_per_minute
    if role == ROLE_CLOCK:
        return Share(limit, limit)
    percents = {ROLE_BACKFILL: rest.share_backfill_percent, ROLE_PASS_THROUGH: rest.share_pass_through_percent}
    percent = percents.get(role, rest.share_repair_percent)
    return Share(limit * percent // 100, limit - limit * rest.share_clock_percent // 100)


def audit_share(rest: settings.Rest, audit: settings.Audit) -> Share:
    """The share of the auditor of the exchange: a weight of its own, and the clock's share is left free by it too."""
    return Share(audit.weight_per_minute, share_of(ROLE_AUDIT, rest).total)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the account answers: `granted`, or how long to wait (ms); `paused` if the exchange demanded that.

    `minute` is the number of the minute (Redis' clock) in which the account answered.
    """

    granted: bool
    wait_ms: int
    minute: int
    paused: bool


async def spend_weight(streams: Scripts, role: str, weight: int, share: Share) -> Answer:
    """Spend `weight` for `role` if its share of the minute allows it. RedisUnavailable, RedisRefused."""
    arguments: list[str | int] = [role, weight, share.own, share.total, SKEW_MS, FLIGHT_MS]
    granted, wait_ms, minute, paused = await streams.run_script(_SCRIPTS["spend"], WEIGHTS_KEY, arguments)
    return Answer(bool(granted), wait_ms, minute, bool(paused))


async def report_weight(streams: Scripts, minute: int, used: int, pause_s: float) -> None:
    """Report the exchange's answer to the account: `used` weight of the `minute` that `spend_weight` gave, and a pause
    in seconds. RedisUnavailable, RedisRefused."""
    await streams.run_script(_SCRIPTS["report"], WEIGHTS_KEY, [minute, used, round(pause_s * 1000), SKEW_MS])


class PatientGate:
    """Lets a role's calls through one after the other, in their order, each when its weight may be used.

    RedisUnavailable or RedisRefused where the account cannot be had: then no call may go out.
    """

    def __init__(
        self,
        streams: Scripts,
        role: str,
        rest: settings.Rest,
        stats: Stats,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        *,
        share: Share | None = None,
    ) -> None:
        """`share` is what the role may use; without it, what `share_of` gives it."""
        self._streams, self._role, self._stats, self._sleep = streams, role, stats, sleep
        self._share = share or share_of(role, rest)
        self._turn = asyncio.Lock()
        stats.show("weight_limit", rest.weight_per_minute)

    async def enter(self, weight: int) -> int:
        """Wait until `weight` may be spent, and spend it; the number of the minute, for `leave`."""
        async with self._turn:
            while not (answer := await spend_weight(self._streams, self._role, weight, self._share)).granted:
                self._stats.show("weight_wait_s", round(answer.wait_ms / 1000, 1))
                # Several processes that wait for the same minute need not all come in its first millisecond.
                await self._sleep(min(answer.wait_ms / 1000, WAIT_S_MAX) + random.random() * 0.05)
        self._stats.show("weight_wait_s", 0)
        self._stats.add("calls")
        self._stats.add("weight", weight)
        return answer.minute

    async def leave(self, minute: int, used: int, pause_s: float) -> None:
        """Note what the exchange answered."""
        if used:
            self._stats.show("weight_of_minute", used)
        await report_weight(self._streams, minute, used, pause_s)


class HastyGate:
    """Lets calls through at once or refuses them: for the clock, whose calls are worthless when late, and for requests
    of clients, who wait for an answer.

    Without Redis it lets everything through: time matters more than a weight of 1.
    """

    def __init__(self, streams: Scripts, role: str, rest: settings.Rest, stats: Stats) -> None:
        self._streams, self._role, self._share, self._stats = streams, role, share_of(role, rest), stats
        stats.show("weight_limit", rest.weight_per_minute)

    async def enter(self, weight: int) -> int:
        """Spend `weight`; ExchangeRefused (status 429, with the pause) where no call may go out now."""
        try:
            async with asyncio.timeout(HASTE_S):
                answer = await spend_weight(self._streams, self._role, weight, self._share)
        except (TimeoutError, RedisUnavailable, RedisRefused):
            return -1
        if answer.granted:
            return answer.minute
        wait_s = answer.wait_ms / 1000
        reason = "the exchange asked for a pause" if answer.paused else "this address' weight of the minute is used up"
        raise ExchangeRefused(f"not asked for another {wait_s:.1f} s: {reason}", status=429, retry_after_s=wait_s)

    async def leave(self, minute: int, used: int, pause_s: float) -> None:
        """Note what the exchange answered, if Redis takes it.

        The gauge follows every answer, also where another gate of the process spends most of the weight: a gate
        without calls would otherwise show the minute of its last call for ever.
        """
        if used:
            self._stats.show("weight_of_minute", used)
        try:
            async with asyncio.timeout(HASTE_S):
                await report_weight(self._streams, minute, used, pause_s)
        except (TimeoutError, RedisUnavailable, RedisRefused):
            return
