"""klagg-gateway: live klines and history for people and for clients written for Binance."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Final
from urllib.parse import urlsplit

import ujson
from aiohttp import web

from gateway.addresses import client_of, networks_of
from gateway.api import Api
from gateway.day_ticker import DayTickers
from gateway.exchange_info import ExchangeInfoReader
from gateway.fapi import Fapi, History
from gateway.guards import SWEEP_S
from gateway.health import Health
from gateway.hub import Hub
from gateway.live import Change, LiveState
from gateway.market import MarketState, Shard
from gateway.page import Page, read_files
from gateway.pass_through import PassThrough
from gateway.reader import ShardReader, floor_ms
from gateway.server import Server
from gateway.store import HistoryStore, StoreBusy
from gateway.survey import Survey, survey
from gateway.ticker_streams import TICKERS_S, TickerStreams
from gateway.trade_reader import TradeReader
from gateway.trade_streams import TradeStreams
from gateway.udf import Udf
from gateway.unserved import UnservedStreams
from gateway.ws import WebSocketServer
from klagg.binance.rest_client import ExchangeRest
from klagg.binance.weight_account import ROLE_PASS_THROUGH, HastyGate
from klagg.clock import local_ms, steady_ms
from klagg.drivers.redis_streams import AsyncStreams, Streams
from klagg.errors import DatabaseRefused, DatabaseUnavailable, RedisRefused, RedisUnavailable
from klagg.intervals import ordered
from klagg.process.alarms import AlarmKind
from klagg.process.catalogue import processes
from klagg.process.heartbeats import StatusReport, decoded, report, silent_after_ms
from klagg.process.service import AsyncContext, run_async
from klagg.process.silence import SilenceWatch
from klagg.wire.entry_id import milliseconds_of
from klagg.wire.keys import Keys, heartbeat_key

SURVEY_S: Final = 2.0
NAMES_S: Final = 60.0
"""How often the names in the table are read."""

ALARM_HEADER: Final = "X-Klagg-Alarm"
"""The response header with the kinds of the alarms that stand anywhere in klagg, in alphabetical order with commas
between them; absent while none stands."""

LOOPBACK: Final = ("127.", "::1", "localhost")


class GatewayService:
    """The parts of the process and its tasks."""

    def __init__(self, context: AsyncContext) -> None:
        self._context, settings = context, context.settings
        config = self._config = settings.gateway
        self._proxies = networks_of(config.trusted_proxies)
        health = [Health(config.pull_timeout_ms, config.stale_ms, steady_ms()) for _ in range(settings.shards)]
        self.market = MarketState(
            [Shard(LiveState(), each) for each in health],
            ordered(settings.aggregator.intervals),
            names_read=not settings.database.enabled,
        )
        self.hub = Hub(config.client_buffer_kb * 1024)
        self.survey = Survey()
        self.expected = [each.name for each in processes(settings)]
        self.report = StatusReport([], self.expected)
        self._trades = SilenceWatch(settings.ingest.silent_s * 1000.0)
        url, timeout_ms = settings.redis.url, config.pull_timeout_ms
        self._blocking = Streams(url, timeout_ms=settings.redis.timeout_ms)
        self._pulling = [AsyncStreams(url, timeout_ms=timeout_ms) for _ in self.market.shards]
        self._readers = [self._reader(number, shard) for number, shard in enumerate(self.market.shards)]
        self._exchange_info = ExchangeInfoReader(
            self.market, self._pulling[0], config.weight_per_minute, context.stats, context.log
        )
        self.store = self._store()
        context.position = self._position
        agg_trades = settings.exchange.source == "aggTrade"
        self.unserved = UnservedStreams(self.market.intervals, agg_trades=agg_trades)
        context.stats.add("subscriptions_unserved", 0)  # Prometheus sees growth only in what it saw before
        self.sockets = WebSocketServer(self.hub, self.market, config, context.stats, context.log, self.unserved)
        history = History(self.market, self.store)
        self._weights = AsyncStreams(url, timeout_ms=settings.redis.timeout_ms)
        self._rest = self._exchange_rest() if config.pass_through else None
        pass_through = PassThrough(self._rest, context.stats) if self._rest else None
        days = DayTickers(self.market, self.store)
        self._tickers = TickerStreams(self.hub, days, context.stats, self.market.changed_ms)
        # A connection of its own: a request that reads much must not hold up live state.
        self._feeds = AsyncStreams(url, timeout_ms=settings.redis.timeout_ms)
        self.trades = TradeReader(self._feeds, settings.shards, context.stats) if agg_trades else None
        self._trade_streams = self._streams_of_trades() if agg_trades else []
        fapi = self._fapi(history, days, pass_through)
        api = self._api(history)
        udf = Udf(self.market, history, context.stats)
        self._downloads = api.downloads
        page = Page(read_files())
        if not page.has_charts:
            context.log.warning("the page has no charts: their library is not installed (make page)")
        routes = [*self.sockets.routes(), *fapi.routes(), *api.routes(), *udf.routes(), *page.routes()]
        self.server = Server(config, routes, page.paths, self.alarm_headers)

    def _reader(self, number: int, shard: Shard) -> ShardReader:
        return ShardReader(
            shard,
            Keys(number),
            self._pulling[number],
            self._blocking,
            self._publish,
            self._config.finals_kept_s * 1000,
            self._context.stats,
            self._context.log,
        )

    def _api(self, history: History) -> Api:
        return Api(
            self.market,
            history,
            self.store,
            self.hub,
            lambda: self.survey,
            self._context.stats,
            token=bool(self._config.token),
            exchange=urlsplit(self._context.settings.exchange.websocket_url).netloc.rpartition("@")[2],
            client_of=self._client_of,
            expected=self.expected,
            report=lambda: self.report,
            unserved=self.unserved.counts,
        )

    def _fapi(self, history: History, days: DayTickers, pass_through: PassThrough | None) -> Fapi:
        weight, stats = self._config.weight_per_minute, self._context.stats
        return Fapi(self.market, history, days, stats, weight, self._client_of, self.trades, pass_through)

    def _streams_of_trades(self) -> list[TradeStreams]:
        context, shards = self._context, self._context.settings.shards
        return [
            TradeStreams(self.hub, number, shards, self._feeds, context.stats, context.log) for number in range(shards)
        ]

    def _exchange_rest(self) -> ExchangeRest:
        """The exchange, for requests that are forwarded: with a share of this address' weight."""
        settings, stats = self._context.settings, self._context.stats
        gate = HastyGate(self._weights, ROLE_PASS_THROUGH, settings.rest, stats)
        exchange = settings.exchange
        return ExchangeRest(exchange.rest_url, gate=gate, proxy=exchange.proxy, agent="klagg-gateway")

    def _client_of(self, request: web.Request) -> str:
        return client_of(request.remote, request.headers.getall("X-Forwarded-For", []), self._proxies)

    def _position(self) -> str:
        read = ", ".join(
            f"{Keys(number).live} up to {shard.position or 'nothing'}"
            for number, shard in enumerate(self.market.shards)
        )
        return f"read {read}; {len(self.hub.clients)} clients are left, which connect again"

    def _store(self) -> HistoryStore | None:
        settings = self._context.settings
        if not settings.database.enabled:
            return None
        config = settings.gateway
        return HistoryStore(
            settings.database.url, connections=config.database_connections, timeout_ms=config.database_timeout_ms
        )

    async def run(self) -> None:
        """Serve until asked to stop."""
        if not self._config.token and not self._config.host.startswith(LOOPBACK):
            self._context.log.warning("gateway.host is %s and there is no gateway.token: anybody there may read")
        async with AsyncExitStack() as stack:
            if self._rest:
                await stack.enter_async_context(self._rest)
            await self._serve()

    async def _serve(self) -> None:
        await self.server.start()
        self._context.log.info("serving at http://%s", self.server.address)
        self._context.stats.show("address", self.server.address)
        others = {
            "exchange-info": self._read_exchange_info_repeatedly(),
            "survey": self._survey_repeatedly(),
            "names": self._read_names_repeatedly(),
            "sweep": self._sweep_repeatedly(),
            "tickers": self._send_tickers_repeatedly(),
        }
        readers = {f"reader-{number}": self._read(reader) for number, reader in enumerate(self._readers)}
        trades = {f"trades-{number}": self._send_trades(each) for number, each in enumerate(self._trade_streams)}
        try:
            await self._context.together({**readers, **trades, **others})
        finally:
            await self.sockets.close()
            await self.server.stop()
            self._downloads.close()
            for streams in (*self._pulling, self._weights, self._feeds):
                await streams.close()
            if self.store:
                await asyncio.to_thread(self.store.close)

    def _publish(self, changes: Sequence[Change]) -> None:
        self.hub.publish(changes)

    async def _read(self, reader: ShardReader) -> None:
        """Pull on the interval; at once when there is more. Also sends what waits for slow clients."""
        more = False
        while more or await self._context.sleep(self._config.pull_ms / 1000):
            more = await reader.turn(steady_ms()) and not self._context.stopping.is_set()
            reader.check_health(steady_ms())
            self.hub.flush()

    async def _send_trades(self, streams: TradeStreams) -> None:
        """As `_read`, of the feed."""
        more = False
        while more or await self._context.sleep(self._config.pull_ms / 1000):
            more = await streams.turn(steady_ms()) and not self._context.stopping.is_set()

    async def _read_exchange_info_repeatedly(self) -> None:
        await self._exchange_info.turn()
        while await self._context.sleep(self._exchange_info.pause_s):
            await self._exchange_info.turn()

    async def _survey_repeatedly(self) -> None:
        """Survey processes and streams, and release the finals that are in the table."""
        stats, shards = self._context.stats, self._context.settings.shards
        while True:
            try:
                self.survey = await asyncio.to_thread(survey, self._blocking, shards, self.survey)
                self._release()
            except (RedisUnavailable, RedisRefused):
                stats.add("surveys_failed")  # the readers log why
            self._judge()  # also without a new survey: the heartbeats of the old one grow old
            stats.show("clients", len(self.hub.clients))
            stats.show("streams", self.hub.streams)
            stats.show("frames_sent", self.hub.frames_sent)
            stats.show("bars_kept", sum(len(shard.state) for shard in self.market.shards))
            if not await self._context.sleep(SURVEY_S):
                return

    def _judge(self) -> None:
        """Judge by the newest survey which processes are silent, and whether trades come: ticks alone are no market.

        Trades are counted where the lines write them, because the lines themselves may be what is silent.
        """
        alarms, service = self._context.stats.alarms, self._context.settings.service
        silent_ms = self._trades.check(dict(self.survey.fed), steady_ms())
        if silent_ms:
            sentence = (
                f"no trade of any symbol has come for {silent_ms / 1000:.0f} s, so what is served is old "
                "(ingest.silent_s; klagg status shows what the lines say)"
            )
            alarms.raise_(AlarmKind.NO_MARKET_DATA, sentence)
        else:
            alarms.clear(AlarmKind.NO_MARKET_DATA)
        self.report = report(self._beats(), self.expected, local_ms(), silent_after_ms(service))
        for name in self.report.silent:
            sentence = f"{name} lost its heartbeat: it is dead or frozen (service.silent_s)"
            alarms.raise_(AlarmKind.PROCESS_SILENT, sentence, name)
        alarms.keep(AlarmKind.PROCESS_SILENT, self.report.silent)

    def _beats(self) -> dict[str, str]:
        """The heartbeats of the newest survey, this process's own with the alarms that stand now."""
        beats, key = dict(self.survey.beats), heartbeat_key(self._context.process)
        if own := decoded(beats.get(key, "")):
            own["alarms"] = [each.to_json() for each in self._context.stats.alarms.standing]
            beats[key] = ujson.dumps(own, ensure_ascii=False)
        return beats

    def alarm_headers(self) -> dict[str, str]:
        """What every answer says of standing alarms: this process's own at once, others as of the last survey."""
        own = {str(each.kind) for each in self._context.stats.alarms.standing}
        kinds = sorted(own | {each.kind for each in self.report.alarms if each.process != self._context.process})
        return {ALARM_HEADER: ", ".join(kinds)} if kinds else {}

    async def _sweep_repeatedly(self) -> None:
        """Abort idle connections."""
        while await self._context.sleep(SWEEP_S):
            self._context.stats.add("connections_idle", self.server.sweep(time.monotonic()))

    async def _send_tickers_repeatedly(self) -> None:
        while await self._context.sleep(TICKERS_S):
            now_ms = self.market.server_time_ms(steady_ms(), local_ms())
            if now_ms and not self.market.waits_for():
                await self._tickers.turn(now_ms)

    def _release(self) -> None:
        for number, shard in enumerate(self.market.shards):
            if shard.position:
                unwritten = self.survey.unwritten_ms.get(number) if self.store else None
                kept_ms = self._config.finals_kept_s * 1000
                shard.state.release(floor_ms(milliseconds_of(shard.position), kept_ms, unwritten))

    async def _read_names_repeatedly(self) -> None:
        """Read the names in the table; symbols that are not traded any more have a history too."""
        while self.store:
            try:
                self.market.stored = await self.store.symbols()
                self.market.names_read = True
            except (DatabaseUnavailable, DatabaseRefused, StoreBusy) as away:
                self._context.log.warning("the names in the table could not be read: %s", away)
            if not await self._context.sleep(NAMES_S):
                return


async def serve(context: AsyncContext) -> None:
    """The body of the process."""
    await GatewayService(context).run()


def main(argv: Sequence[str] | None = None) -> int:
    """The console script; the exit code."""
    return run_async("gateway", "Serves live klines and history by REST and WebSocket.", serve, argv=argv)


if __name__ == "__main__":
    sys.exit(main())
