"""Every key in Redis: those of a shard, and those that all shards share.

`{n}` in a key is the number of the shard in literal braces. The braces are the hash tag of Redis Cluster (Redis docs,
"Redis cluster specification"): all keys of one shard lie in one slot, so a transaction over all of them is legal.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Final

FEED: Final = "feed"
"""The stream's name of every shard's feed, from which a feed's key and its statistics are named."""

# Consumer groups. `groups.py` says which of them a configuration asks for.
GROUP_WRITERS: Final = "writers"
GROUP_REPAIR: Final = "repair"
GROUP_HISTORY: Final = "history"
GROUP_COMPLETENESS: Final = "audit-completeness"
GROUP_LIFECYCLE: Final = "audit-lifecycle"

CLOCK_KEY: Final = "clock"
"""Stream of triggers by the clock process: `name` (snapshot, retention, days), `time` exchange ms."""

WEIGHTS_KEY: Final = "weights"
"""Hash: the REST weight that this address has used, by minute and role, and until when no process may call."""


EXCHANGE_INFO_KEY: Final = "exchange-info"
"""Hash: the exchange's answer to exchangeInfo as it came, with the symbols that klagg carries (`exchange_info.py`)."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one shard."""

    shard: int

    def _key(self, name: str) -> str:
        return f"{name}:{{{self.shard}}}"

    @property
    def feed(self) -> str:
        """Stream of what comes from the exchange: trades, ticks, watermarks, listings, official rows."""
        return self._key(FEED)

    @property
    def klines(self) -> str:
        """Stream of every version of every closed bar."""
        return self._key("klines")

    @property
    def live(self) -> str:
        """Stream of bars in progress as they change."""
        return self._key("live")

    @property
    def bars(self) -> str:
        """Hash of all bars in progress, for a reader of `live` that begins."""
        return self._key("bars")

    @property
    def events(self) -> str:
        """Stream of the life of bars, gaps and symbols, in order."""
        return self._key("events")

    @property
    def requests(self) -> str:
        """Stream of what is missing and requested from klagg-repair."""
        return self._key("requests")

    @property
    def findings(self) -> str:
        """Stream of what a person should know."""
        return self._key("findings")

    @property
    def dead(self) -> str:
        """Stream of entries that could not be processed."""
        return self._key("dead")

    def reader(self, name: str) -> str:
        """The key with a TTL at which a reader of `live` that has no group publishes the id that it has read."""
        return f"reader:{{{self.shard}}}:{name}"

    def audit(self, name: str) -> str:
        """The hash of what the auditor `name` remembers; `:at` behind it is the hash of where it stands."""
        return f"audit:{{{self.shard}}}:{name}"

    @property
    def commit(self) -> str:
        """Hash of where the shard's aggregator stands."""
        return self._key("commit")

    @property
    def checkpoint(self) -> str:
        """Hash that points to the newest checkpoint; its blocks are keys of their own."""
        return self._key("checkpoint")


def shard_of(symbol: str, shards: int) -> int:
    """The shard that owns `symbol`: crc32 of its UTF-8 name, mod the number of shards."""
    return zlib.crc32(symbol.encode()) % shards


def heartbeat_key(process: str) -> str:
    """The key with a TTL by which a process shows that it lives."""
    return f"heartbeat:{process}"


HEARTBEAT_PATTERN: Final = "heartbeat:*"
