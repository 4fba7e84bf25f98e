"""The exchange's limits on those who call it. Real time, whatever the speed of the exchange's clock."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from klagg.binance.limits import (
    AGG_TRADES_ROWS_MAX,
    BAN_S,
    BAN_S_MAX,
    CONNECTION_S,
    KLINES_ROWS_MAX,
    MESSAGES_PER_S,
    PING_S,
    STREAMS_PER_CONNECTION,
    WEIGHT_PER_MINUTE,
)


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits as the exchange publishes them (`klagg.binance.limits` names the documents); tests shorten some."""

    weight_per_minute: int = WEIGHT_PER_MINUTE
    """REST weight per address and calendar minute."""
    refusals_until_ban: int = 10
    """Requests after the first 429 of a minute that are met with 429 before the address is banned (418)."""
    ban_s: int = BAN_S
    """First ban; each further one doubles, up to three days."""
    streams_per_connection: int = STREAMS_PER_CONNECTION
    messages_per_second: int = MESSAGES_PER_S
    """Client messages on one WebSocket, pings and pongs included."""
    connection_s: float = CONNECTION_S
    ping_interval_s: float = PING_S
    """The server pings a silent client after this long and drops it when no answer comes in half of it."""
    send_buffer_bytes: int = 16 * 1024 * 1024
    """A client that lets more than this pile up unread is disconnected."""
    klines_rows: int = KLINES_ROWS_MAX
    agg_trades_rows: int = AGG_TRADES_ROWS_MAX
    agg_trades_depth_ms: int = 86_400_000


@dataclass(frozen=True, slots=True)
class WeightVerdict:
    """What becomes of a REST request: HTTP `status` 200, 429 or 418, the minute's weight so far, when to come back."""

    status: int
    used_weight: int
    retry_after_s: int = 0
    banned_until_ms: int = 0


@dataclass(slots=True)
class _Address:
    minute: int = -1
    used: int = 0
    refusals: int = 0
    bans: int = 0
    banned_until_ms: int = 0


@dataclass(slots=True)
class WeightLimiter:
    """Counts REST weight per address; `now_ms` is the real time."""

    limits: Limits
    _addresses: dict[str, _Address] = field(default_factory=dict)

    def charge(self, address: str, weight: int, now_ms: int, *, banned: bool = True) -> WeightVerdict:
        """Charge `weight` to `address` at `now_ms` (real time, ms); whether its request is served.

        An address that may not be `banned` gets 429 until the minute ends, however often it asks.
        """
        minute = now_ms // 60_000
        state = self._addresses.get(address)
        if state is None:
            self._forget_idle(minute, now_ms)
            state = self._addresses[address] = _Address()
        if state.banned_until_ms > now_ms:
            return self._banned(state, now_ms)
        if state.minute != minute:
            state.minute, state.used, state.refusals = minute, 0, 0
        state.used += weight
        if state.used <= self.limits.weight_per_minute:
            return WeightVerdict(200, state.used)
        state.refusals += 1
        if banned and state.refusals > self.limits.refusals_until_ban:
            state.banned_until_ms = now_ms + min(self.limits.ban_s * 1000 * 2**state.bans, BAN_S_MAX * 1000)
            state.bans += 1
            return self._banned(state, now_ms)
        return WeightVerdict(429, state.used, retry_after_s=_seconds_up((minute + 1) * 60_000 - now_ms))

    @staticmethod
    def _banned(state: _Address, now_ms: int) -> WeightVerdict:
        return WeightVerdict(418, state.used, _seconds_up(state.banned_until_ms - now_ms), state.banned_until_ms)

    def _forget_idle(self, minute: int, now_ms: int) -> None:
        """Keeps the table of addresses as small as their number within the last hour."""
        for address, state in list(self._addresses.items()):
            if state.minute < minute - 60 and state.banned_until_ms <= now_ms:
                del self._addresses[address]


@dataclass(slots=True)
class MessageLimiter:
    """Counts one connection's messages within the last second; `now_s` is monotonic."""

    per_second: int
    _times: deque[float] = field(default_factory=deque)

    def allow(self, now_s: float) -> bool:
        """Counts a message; False when it is one too many."""
        while self._times and self._times[0] <= now_s - 1.0:
            self._times.popleft()
        self._times.append(now_s)
        return len(self._times) <= self.per_second


def _seconds_up(duration_ms: int) -> int:
    return max(1, -(-duration_ms // 1000))
