"""The control connection of a process: what the exchange publishes about all its symbols, apart from their trades.

Binance USDⓈ-M docs, "Contract Info Stream" (`!contractInfo`: listing, settlement and brackets, in real time) and "All
Market Tickers Streams" (`!ticker@arr`: each second the tickers that changed).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import ujson

from ingest.connection import Connection
from ingest.parser import EVENT, SYMBOL_TYPE
from ingest.session import ConnectionOptions
from klagg.binance.endpoints import Endpoint, StreamUrl
from klagg.binance.payloads import ContractNews, Ticker, contract_of, event_in, tickers_of
from klagg.process.stats import Stats
from klagg.process.unknown_words import UnknownWords
from klagg.row_rules import COIN_MARGINED
from klagg.settings import Settings

FRAME_BYTES_MAX: Final = 4 << 20
"""A ticker of the documented form has about 400 bytes, and all of them may come in one frame."""


TICKER, NEWS = "24hrTicker", "contractInfo"
"""The types `e` of the events that come here."""

_SYMBOL_TYPES: Final = (1, COIN_MARGINED)


class ControlConnection:
    """Carries `streams` (`!contractInfo`, `!ticker@arr`) and hands on news of contracts and tickers.

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
        self._words = UnknownWords(stats, log, EVENT, SYMBOL_TYPE)
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
        self._note_words(event)

    def _note_words(self, event: Any) -> None:
        """Tell of events and symbol types that nobody has seen; a message that is no event has none."""
        for row in event if isinstance(event, list) else [event]:
            if not isinstance(row, dict):
                continue
            if (kind := row.get("e")) not in (TICKER, NEWS):
                self._words.note(EVENT, str(kind)[:80], "events of this type are passed over")
            if (symbol_type := row.get("st", 1)) not in _SYMBOL_TYPES:
                where = "what is not said to be COIN-M is taken for USDⓈ-M"
                self._words.note(SYMBOL_TYPE, str(symbol_type)[:80], where)

    async def run(self) -> None:
        """Keep the connection up until cancelled."""
        await self.connection.run()
