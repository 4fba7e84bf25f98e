"""Entries that a consumer was given, never acknowledged and holds too long: another one takes them over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from klagg.drivers.commands import Entry
from klagg.drivers.redis_streams import Streams
from klagg.process.service import Context
from klagg.wire.entry_id import BEFORE_FIRST

IDLE_MS: Final = 60_000
"""An entry that another consumer holds for this long without acknowledging it is taken over. A living one that only
waits for the database then stores it too, which changes nothing."""


def idle_pages(
    context: Context, streams: Streams, stream: str, group: str, consumer: str, count: int
) -> Iterator[list[Entry]]:
    """Take over what is idle, a page of at most `count` entries at a time; each is counted and told in the log."""
    start = ""
    while start != BEFORE_FIRST:
        start, entries = streams.claim_idle(
            stream, group, consumer, idle_ms=IDLE_MS, count=count, start=start or BEFORE_FIRST
        )
        if entries:
            context.stats.add("reclaimed", len(entries))
            context.log.info("%d idle entries of %s are taken over", len(entries), stream)
            yield entries
