"""Whether the feeds have room: their memory in Redis against their cap, as the aggregator computes it.

At maxmemory with `noeviction` Redis refuses every command that needs memory (Redis docs, "Key eviction"), also the
aggregator's commit, and then no process could trim. So a process that writes trades stops at the cap of the feed
(`streams.feed_percent`), and goes on when there is room again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

from klagg.clock import steady_ms
from klagg.drivers.statements import load_statements
from klagg.errors import KlaggError
from klagg.process.alarms import AlarmKind
from klagg.process.stats import Stats
from klagg.settings import Settings
from klagg.wire.keys import Keys

MEASURE_MS: Final = 500
"""Local time between two measurements of the feeds."""

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

    async def run_script(self, script: str, key: str, arguments: Sequence[str | int]) -> list[int]:
        """The result of a Lua script over one key; RedisUnavailable or RedisRefused if it fails."""


class HighWaterMark:
    """One feed: full at its cap, and from then on until it is below RESUME_PERCENT of it. Pure."""

    def __init__(self) -> None:
        self.full = False

    def update(self, used: int, cap: int) -> bool:
        """Update with a measurement, both in bytes; whether `full` changed."""
        before = self.full
        self.full = used >= (cap * RESUME_PERCENT // 100 if before else cap)
        return self.full != before


class FeedCapacity:
    """Measures all feeds, at most every MEASURE_MS. `full`: the feeds that nothing may be written to, with the
    error."""

    def __init__(
        self,
        streams: Scripts,
        settings: Settings,
        *,
        stats: Stats,
        now_ms: Callable[[], float] = steady_ms,
    ) -> None:
        self._streams, self._settings, self._stats, self._now_ms = streams, settings, stats, now_ms
        self.findings = {Keys(shard).feed: Keys(shard).findings for shard in range(settings.shards)}
        """Where findings about a feed go, by feed."""
        for feed in self.findings:
            stats.add("feed_full", 0, stream=feed)
        self._marks = {feed: HighWaterMark() for feed in self.findings}
        self._due_ms = 0.0
        self.full: dict[str, FeedFull] = {}

    async def measure(self) -> None:
        """Measure all feeds if that is due; RedisUnavailable or RedisRefused if it fails."""
        now_ms = self._now_ms()
        if now_ms < self._due_ms:
            return
        for feed, mark in self._marks.items():
            used, maxmemory = await self._streams.run_script(_SCRIPTS["measure"], feed, [])
            cap = self.cap(maxmemory)
            changed = mark.update(used, cap)
            self._stats.show("feed_used_percent", round(100 * used / cap, 1), stream=feed)
            if mark.full:
                self.full[feed] = FeedFull(feed, used, cap)
            else:
                self.full.pop(feed, None)
            if changed and mark.full:
                self._stats.add("feed_full", stream=feed)
                sentence = f"{self.full[feed]}; trades are held back meanwhile"
                self._stats.alarms.raise_(AlarmKind.FEED_FULL, sentence, feed)
            elif changed:
                self._stats.alarms.clear(AlarmKind.FEED_FULL, feed)
        self._due_ms = now_ms + MEASURE_MS

    def cap(self, maxmemory: int) -> int:
        """The bytes that one feed may take when Redis has `maxmemory` (0: unlimited, then the configured one holds)."""
        whole = maxmemory or self._settings.redis.maxmemory_mb << 20
        return whole * self._settings.streams.feed_percent // 100 // self._settings.shards
