"""What tests of connections and sessions share: a connection that collects its frames, with short waits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from ingest.connection import Connection
from ingest.session import ConnectionOptions
from ingest.timings import Timings
from klagg.binance.endpoints import Endpoint, StreamUrl, stream_name
from klagg.process.stats import Stats
from tests.ingest.kit import SYMBOLS

STREAMS = [stream_name(symbol, "aggTrade") for symbol in SYMBOLS]

SHORT = Timings(reconnect_first_s=0.01, overlap_s=0.05, ping_after_ms=50.0, tend_s=0.02)


class Receiver:
    """A connection and the frames that it gave."""

    def __init__(
        self, url: str, endpoint: Endpoint = Endpoint.COMBINED, timings: Timings = SHORT, **options: Any
    ) -> None:
        self.frames: list[bytes] = []
        self.stats = Stats()
        self.connection = Connection(
            "A1",
            StreamUrl.of(url, endpoint, "aggTrade"),
            STREAMS,
            self.frames.append,
            options=ConnectionOptions(**options, timings=timings),
            stats=self.stats,
            log=logging.getLogger("test"),
        )

    def reconnects(self, reason: str) -> int:
        """How often the connection was made anew for this reason."""
        return self.stats.labelled_counters[("reconnects", (("connection", "A1"), ("reason", reason)))]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        task = asyncio.create_task(self.connection.run())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
