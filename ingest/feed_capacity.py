"""Whether the feeds have room: their memory in Redis against their cap, as the aggregator reckons it.

At maxmemory Redis refuses everything, also the aggregator's commit, and then nobody could trim. So whoever writes
trades stops at the cap of the feed (`streams.feed_percent`) by himself and goes on when there is room again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

from klagg.clock import steady_ms
from klagg.drivers.statements import load_statements
from klagg.errors import KlaggError
from klagg.process.stats import Stats
from klagg.settings import Settings
from klagg.wire.keys import Keys

LOOK_MS: Final = 500
"""Real time between two looks at the feeds."""

RESUME_PERCENT: Final = 90
"""A feed that was full has room again below this much of its cap. The aggregator trims to less than that."""

_SCRIPTS: Final = load_statements(Path(__file__).with_suffix(".lua"))


class FeedFull(KlaggError):
    """A feed is at its cap; the aggregator has to trim before anything more is written."""

    def __init__(self, key: str, used: int, cap: int) -> None:
        super().__init__(
            f"{key} takes {used >> 20} MB of the {cap >> 20} MB that streams.feed_percent allows: the aggregator falls "
            "behind"
        )


class Scripts(Protocol):
    """What this module needs of klagg.drivers.redis_streams.AsyncStreams."""

    async def run_script(self, script: str, key: str, arguments: Sequence[str | int]) -> list[int]: ...


class Gauge:
    """One feed: full at its cap, and then until it is well below it. Pure."""

    def __init__(self) -> None:
        self.full = False

    def take(self, used: int, cap: int) -> bool:
        """Take in a measurement; whether the answer changed."""
        before = self.full
        self.full = used >= (cap * RESUME_PERCENT // 100 if before else cap)
        return self.full != before


class FeedRoom:
    """Looks at all feeds at most every LOOK_MS. `full`: those that nothing may be written to."""

    def __init__(
        self,
        streams: Scripts,
        settings: Settings,
        *,
        stats: Stats,
        log: logging.Logger,
        now_ms: Callable[[], float] = steady_ms,
    ) -> None:
        self._streams, self._settings, self._stats, self._log, self._now_ms = streams, settings, stats, log, now_ms
        self.findings = {Keys(shard).feed: Keys(shard).findings for shard in range(settings.shards)}
        """Where findings about a feed go, by feed."""
        self._gauges = {feed: Gauge() for feed in self.findings}
        self._due_ms = 0.0
        self.full: dict[str, FeedFull] = {}

    async def look(self) -> None:
        """Measure again if it is due; RedisUnavailable or RedisRefused if that fails."""
        now_ms = self._now_ms()
        if now_ms < self._due_ms:
            return
        for feed, gauge in self._gauges.items():
            used, maxmemory = await self._streams.run_script(_SCRIPTS["measure"], feed, [])
            cap = self.cap(maxmemory)
            changed = gauge.take(used, cap)
            self._stats.show("feed_used_percent", round(100 * used / cap, 1), stream=feed)
            if gauge.full:
                self.full[feed] = FeedFull(feed, used, cap)
            else:
                self.full.pop(feed, None)
            if changed and gauge.full:
                self._stats.add("feed_full", stream=feed)
                self._log.error("ALARM: %s; trades are held back meanwhile", self.full[feed])
            elif changed:
                self._log.warning("%s has room again: it takes %d MB of %d MB", feed, used >> 20, cap >> 20)
        self._due_ms = now_ms + LOOK_MS

    def cap(self, maxmemory: int) -> int:
        """The bytes that one feed may take when Redis has `maxmemory` (0: unlimited, then the configured one holds)."""
        whole = maxmemory or self._settings.redis.maxmemory_mb << 20
        return whole * self._settings.streams.feed_percent // 100 // self._settings.shards
