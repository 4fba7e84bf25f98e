"""Reads the exchange's exchangeInfo, as the clock process keeps it in Redis, into the market: at the start, and when it
changes."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Final

from gateway.market import MarketState
from klagg.binance.serving.exchange_info import ServedExchangeInfo, served_exchange_info
from klagg.drivers.redis_streams import AsyncStreams
from klagg.errors import ContractError, RedisRefused, RedisUnavailable
from klagg.process.stats import Stats
from klagg.wire.exchange_info import MARK, TIMES, kept_exchange_info_of
from klagg.wire.fields import RawFields
from klagg.wire.keys import EXCHANGE_INFO_KEY

SEEN: Final = (*MARK, *TIMES)

READ_S: Final = 1.0
"""How often the small fields of the kept answer are read; the answer itself only when its mark is another."""

FIRST_READ_S: Final = 0.1
"""The same, until there is an answer."""


class ExchangeInfoReader:
    """Keeps the market's `info`. `turn` looks once; errors of Redis are counted there and never raised.

    An answer that cannot be read is logged once, and the last good one stays.
    """

    def __init__(
        self, market: MarketState, streams: AsyncStreams, weight_per_minute: int, stats: Stats, log: logging.Logger
    ) -> None:
        self._market, self._streams, self._weight_per_minute = market, streams, weight_per_minute
        self._stats, self._log = stats, log
        self._mark: list[bytes] = []
        self._seen: dict[bytes, bytes] = {}

    @property
    def pause_s(self) -> float:
        """How long to wait for the next turn."""
        return READ_S if self._market.info else FIRST_READ_S

    async def turn(self) -> None:
        """Look once, and read the answer if it is another one."""
        try:
            fields = await self._streams.fields_of(EXCHANGE_INFO_KEY, SEEN)
            seen = {name.encode(): value for name, value in zip(SEEN, fields, strict=True) if value is not None}
            mark = [seen.get(name.encode(), b"") for name in MARK]
            if b"" in mark or seen == self._seen:
                return
            another = mark != self._mark
            raw = await self._streams.hash_of(EXCHANGE_INFO_KEY) if another else seen
        except (RedisUnavailable, RedisRefused):
            self._stats.add("pulls_failed")  # the readers of shards log why
            return
        self._mark, self._seen = mark, seen
        try:
            info = await self._served(raw, another=another)
        except (ContractError, ValueError) as bad:
            self._stats.add("rejected")
            self._log.error(
                "the exchangeInfo in %s cannot be served, the last good one stays: %s", EXCHANGE_INFO_KEY, bad
            )
            return
        if info is not None:
            self._market.info = info
        if info is not None and another:
            self._stats.add("exchange_infos")
            self._log.info("exchangeInfo: %d symbols are served, %d are left out", len(info.symbols), info.left_out)

    async def _served(self, raw: RawFields, *, another: bool) -> ServedExchangeInfo | None:
        """What a hash, or only its times, makes of the answer that is served now."""
        if another:
            return await asyncio.to_thread(served_exchange_info, kept_exchange_info_of(raw), self._weight_per_minute)
        info = self._market.info
        return replace(info, kept=info.kept.asked_again(raw)) if info else None
