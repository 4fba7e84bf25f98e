"""One line's parts, put together: connections, intake, watermarks, and the guard over what arrives."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine, Iterable, Mapping
from typing import Any, Final

from ingest.connection import Connection
from ingest.control_connection import ControlConnection
from ingest.intake import Intake
from ingest.listed import Listed
from ingest.liveness_guard import LivenessGuard
from ingest.parser import Rules
from ingest.pool import Pool
from ingest.sender import Sender
from ingest.session import ConnectionOptions
from ingest.ticker_witnesses import TickerWitnesses
from ingest.timings import DEFAULT_TIMINGS, Timings
from ingest.universe import finer_than_listed
from klagg.binance.endpoints import CONTRACT_INFO, TICKERS, Endpoint, StreamUrl, stream_name
from klagg.binance.payloads import Ticker
from klagg.clock import ExchangeClock, steady_ms
from klagg.process.service import AsyncContext
from klagg.settings import Settings
from klagg.wire.keys import shard_of

WATERMARK_LEAST_S: Final = 0.05
"""A line writes a watermark every `ingest.watermark_ms` of exchange time, at most one in so many local seconds."""


class Line:
    """Carries the symbols of the last `follow`."""

    def __init__(
        self,
        context: AsyncContext,
        clock: ExchangeClock,
        sender: Sender,
        listed: Listed,
        timings: Timings = DEFAULT_TIMINGS,
    ) -> None:
        settings = context.settings
        exchange, ingest = settings.exchange, settings.ingest
        self._context, self._clock, self._settings, self._timings = context, clock, settings, timings
        self._name = str(context.arguments.line)
        self._endpoint = Endpoint(exchange.endpoint)
        self._url = StreamUrl.of(exchange.websocket_url, self._endpoint, exchange.source)
        rules = Rules(self._endpoint, exchange.source, frozenset(), ingest.future_ms_max)
        self.intake = Intake(
            rules,
            sender.outbox,
            clock,
            line=self._name,
            shards=settings.shards,
            batch_ms=ingest.batch_ms,
            batch_rows=ingest.batch_rows,
            stats=context.stats,
            log=context.log,
        )
        self._options = connection_options(settings, self._name, timings)
        self.pool = Pool(exchange.source, exchange.symbols_per_connection, self._connection)
        self._listed = listed
        listed.follow = self.follow
        self.intake.on_stranger = listed.traded
        self._control = ControlConnection(
            f"{self._name}0",
            settings,
            self._options,
            (CONTRACT_INFO, TICKERS),
            on_news=listed.news,
            on_tickers=self._on_tickers,
            stats=context.stats,
            log=context.log,
        )
        self._guard = LivenessGuard(
            self.pool, self._control.connection, settings.ingest, context.stats, context.log, timings
        )
        self._carried: frozenset[str] = frozenset()
        self._witnesses = TickerWitnesses(lambda symbol: symbol in self._carried)
        self._finer: dict[str, tuple[int, int]] = {}

    def follow(self, symbols: Collection[str]) -> None:
        """Carry these symbols from now on."""
        self._carried = frozenset(symbols)
        self.intake.admit(symbols)
        self.pool.follow(symbols)

    def tasks(self) -> dict[str, Coroutine[Any, Any, None]]:
        """The background tasks of the line by name; none of them ends by itself."""
        return {
            "connections": self.pool.run(),
            "batches": self.intake.run(),
            "watermarks": self._watermarks(),
            "control": self._control.run(),
            "guard": self._guard_loop(),
            "listings": self._listed.run(),
        }

    def _connection(self, number: int, streams: Collection[str]) -> Connection:
        return Connection(
            f"{self._name}{number}",
            self._url,
            streams,
            self.intake.receive,
            options=self._options,
            stats=self._context.stats,
            log=self._context.log,
        )

    async def _watermarks(self) -> None:
        watermark_until_ms: dict[str, int] = {}
        while True:
            await asyncio.sleep(watermark_interval_s(self._settings.ingest.watermark_ms, self._clock.speed))
            self._context.stats.show("connections", sum(each.is_up for each in self.pool.connections))
            counts = self.intake.drain_counts()
            self._show(self._control.connection)
            for connection, symbols in self.pool.carried:
                alive_ms = connection.alive_ms(self._clock)
                self._show(connection)
                self._show_carried(connection, symbols, counts)
                if alive_ms is not None and alive_ms > watermark_until_ms.get(connection.name, 0):
                    alive = self._alive(connection, symbols)
                    if alive:
                        self.intake.watermark(by_shard(alive, self._settings.shards), alive_ms)
                        watermark_until_ms[connection.name] = alive_ms

    def _show(self, connection: Connection) -> None:
        stats, name = self._context.stats, connection.name
        messages, size = connection.received.drain()
        stats.add("connection_messages", messages, connection=name)
        stats.add("connection_bytes", size, connection=name)
        if not connection.streams:  # one without anything to carry is not down
            stats.forget(connection=name)
            return
        stats.show("connection_up", int(connection.is_up), connection=name)
        stats.show("connection_silence_ms", round(connection.silent_ms, 1), connection=name)

    def _show_carried(self, connection: Connection, symbols: Collection[str], counts: Mapping[str, int]) -> None:
        stats, name = self._context.stats, connection.name
        stats.add("connection_trades", sum(counts.get(each, 0) for each in symbols), connection=name)
        if symbols:
            stats.show("connection_symbols", len(symbols), connection=name)

    def _alive(self, connection: Connection, symbols: Iterable[str]) -> list[str]:
        """Those of the connection's symbols whose trades arrive, as far as anybody knows."""
        confirmed, name = connection.confirmed, self._settings.exchange.source
        return [
            each
            for each in sorted(symbols)
            if stream_name(each, name) in confirmed and self._guard.is_alive(each, connection)
        ]

    def _on_tickers(self, tickers: list[Ticker]) -> None:
        moved = self._guard.receive(tickers, self.intake.latest, self._clock.speed)
        self._listed.ticked(tickers, moved)
        self._witnesses.observe(tickers)
        if due := self._witnesses.drain(self.intake.latest):
            self._context.stats.add("ticker_witnesses", len(due))
            self.intake.witness(due)

    async def _guard_loop(self) -> None:
        while True:
            await asyncio.sleep(self._timings.guard_s)
            self._guard.check(self.intake.latest, self._clock.now_ms(steady_ms()), steady_ms(), self._clock.speed)
            self._verify_scales()

    def _verify_scales(self) -> None:
        """The aggregator accepts finer trades and rescales. Here they are counted, logged once, and become doubts."""
        known, latest = self._listed.universe.known, self.intake.latest
        for symbol in finer_than_listed(latest, known, latest.keys()):
            listing = known[symbol]
            self._context.stats.add("finer_than_listed")
            scales = listing.price_scale, listing.qty_scale
            if self._finer.get(symbol) != scales:
                self._finer[symbol] = scales
                self._listed.finer(symbol)
                self._context.log.warning(
                    "%s trades at finer steps than exchangeInfo lists (%d and %d decimals): price %s, quantity %s",
                    symbol,
                    *scales,
                    *latest[symbol][1:],
                )


def connection_options(settings: Settings, line: str, timings: Timings = DEFAULT_TIMINGS) -> ConnectionOptions:
    """How a line connects: its User-Agent, and the proxy, age and stall limit of the settings."""
    exchange = settings.exchange
    return ConnectionOptions(
        f"klagg-ingest-{line}",
        exchange.proxy,
        exchange.connection_age_s,
        settings.ingest.stalled_ms,
        timings=timings,
    )


def by_shard(symbols: Iterable[str], shards: int) -> dict[int, list[str]]:
    """`symbols` by the shard that owns them."""
    owned: dict[int, list[str]] = {}
    for symbol in symbols:
        owned.setdefault(shard_of(symbol, shards), []).append(symbol)
    return owned


def watermark_interval_s(watermark_ms: int, speed: float) -> float:
    """Local seconds between two watermarks that are `watermark_ms` of exchange time apart, for an exchange at ×`speed`.

    An exchange whose clock is held (speed 0) counts as running at ×1.
    """
    return max(WATERMARK_LEAST_S, watermark_ms / 1000 / (speed or 1))
