"""The control connection of a process: what the exchange publishes about all its symbols, apart from their trades.

Binance USDⓈ-M docs, "Contract Info Stream" (`!contractInfo`: listing, settlement and brackets, in real time) and "All
Market Mini Tickers Stream" (`!miniTicker@arr`: each second the tickers that changed).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import ujson

from ingest.connection import Connection
from ingest.session import ConnectionOptions
from klagg.binance.endpoints import Endpoint, StreamUrl
from klagg.binance.payloads import ContractNews, Ticker, contract_of, event_in, tickers_of
from klagg.process.stats import Stats
from klagg.settings import Settings

FRAME_BYTES_MAX: Final = 4 << 20
"""A ticker of the documented form has about 130 bytes, and all of them may come in one frame."""


TICKER, NEWS = "24hrMiniTicker", "contractInfo"
"""The types `e` of the events that come here."""


class ControlConnection:
    """Carries `streams` (`!contractInfo`, `!miniTicker@arr`) and hands on news of contracts and tickers.

    Its endpoint is always a combined one, whatever endpoint the trades come over.
    """

    def __init__(
        self,
        name: str,
        settings: Settings,
        options: ConnectionOptions,
        streams: Sequence[str],
        *,
        on_news: Callable[[ContractNews], None],
        on_tickers: Callable[[list[Ticker]], None] = lambda _: None,
        stats: Stats,
        log: logging.Logger,
    ) -> None:
        self._on_news, self._on_tickers, self._stats = on_news, on_tickers, stats
        self.connection = Connection(
            name,
            StreamUrl.of(settings.exchange.websocket_url, Endpoint.COMBINED),
            streams,
            self.receive,
            options=replace(options, frame_bytes_max=FRAME_BYTES_MAX),
            stats=stats,
            log=log,
        )

    def receive(self, frame: bytes) -> None:
        """A frame came: hand on what it holds. What is no JSON is counted as `control_rejected`."""
        self._stats.add("control_messages")
        try:
            message = ujson.loads(frame)
        except ValueError:
            self._stats.add("control_rejected")
            return
        event = event_in(message)
        if tickers := tickers_of(event):
            self._stats.add("events", len(tickers), type=TICKER)
            self._on_tickers(tickers)
        elif news := contract_of(event):
            self._stats.add("contract_news")
            self._stats.add("events", type=NEWS)
            self._on_news(news)

    async def run(self) -> None:
        """Keep the connection up until cancelled."""
        await self.connection.run()
