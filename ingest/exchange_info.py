"""Keeps the exchange's exchangeInfo in Redis for the gateway. A thin shell over Redis."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from klagg.clock import ExchangeClock, local_ms, steady_ms
from klagg.drivers.redis_streams import HashUpdate
from klagg.wire.exchange_info import MARK, KeptExchangeInfo
from klagg.wire.fields import stamp
from klagg.wire.keys import EXCHANGE_INFO_KEY

_SERVER_TIME: Final = re.compile(r'"serverTime"\s*:\s*[0-9]+', re.ASCII)


class Hashes(Protocol):
    """What is needed of Redis (klagg.drivers.redis_streams.AsyncStreams)."""

    async def write(self, writes: Sequence[HashUpdate]) -> list[str]:
        """Write all; RedisUnavailable or RedisRefused."""

    async def fields_of(self, key: str, names: Sequence[str]) -> list[bytes | None]:
        """These fields of a hash, None where there is none."""


class _Kept(NamedTuple):
    """An answer, the names in it that klagg carries, and when it was asked, by two clocks of this machine (ms)."""

    body: str
    carried: tuple[str, ...]
    steady_ms: float
    local_ms: float


class ExchangeInfoKeeper:
    """Writes each answer that is believed, and writes it again where Redis has lost it. Of an answer that is the same
    as the last one only the time is written: the whole has about 1 MB.

    `clock` tells the exchange time at which an answer was asked. While that clock is not synchronised, the time is not
    known and is written later; `serverTime` of the answer does not tell it ("Ignore please": Binance USDⓈ-M docs,
    "Exchange Information").
    """

    def __init__(self, streams: Hashes, writer: str, clock: ExchangeClock) -> None:
        self._streams, self._writer, self._clock = streams, writer, clock
        self._seq = 0
        self._kept: _Kept | None = None
        self._timed = False

    async def keep(self, body: str, carried: Sequence[str], asked_steady_ms: float) -> None:
        """Write an answer that was asked at this time (`steady_ms`), and the names in it that klagg carries."""
        asked_local_ms = local_ms() - (steady_ms() - asked_steady_ms)
        kept = _Kept(body, tuple(carried), asked_steady_ms, asked_local_ms)
        await self._write(kept, whole=not self._is_kept(kept))

    def _is_kept(self, kept: _Kept) -> bool:
        """Whether Redis was given this answer already, but for `serverTime`, which is another one each time."""
        before = self._kept
        return before is not None and (before.carried, _timeless(before.body)) == (kept.carried, _timeless(kept.body))

    async def restore(self) -> None:
        """Write the last answer again if Redis lost it or came back older; its time alone if only that was unknown."""
        if self._kept is None:
            return
        found = await self._streams.fields_of(EXCHANGE_INFO_KEY, MARK)
        lost = found != [self._writer.encode(), str(self._seq).encode()]
        if lost or (self._clock.synced and not self._timed):
            await self._write(self._kept, whole=lost)

    async def _write(self, kept: _Kept, *, whole: bool) -> None:
        clock, synced = self._clock, self._clock.synced
        asked_ms = max(0, clock.now_ms(kept.steady_ms)) if synced else 0
        value = KeptExchangeInfo(kept.body, kept.carried, asked_ms, int(kept.local_ms), clock.speed)
        if whole:
            self._seq += 1
            fields = stamp(value.to_fields(), self._writer, self._seq)
        else:
            fields = value.times()
        await self._streams.write([HashUpdate(EXCHANGE_INFO_KEY, fields)])
        self._kept, self._timed = kept, synced


def _timeless(body: str) -> str:
    return _SERVER_TIME.sub("", body, count=1)
