"""Guards a line's connections by what arrives: alarms when something does not, and heals it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from ingest.connection import Connection
from ingest.liveness import Action, Liveness, Remedy, SilenceDetector, TickerReference
from ingest.pool import Pool
from ingest.reasons import DEAD_SYMBOL, SILENT, SILENT_CONTROL, STALE_ROUTE, alarm, expect
from ingest.timings import DEFAULT_TIMINGS, Timings
from klagg import settings
from klagg.binance.payloads import Ticker
from klagg.process.stats import Stats

Latest = Mapping[str, tuple[int, str, str]]
"""Time (exchange ms), price and quantity of each symbol's newest trade."""

GAP_MS: Final = 10_000
"""Tickers come every second (Binance USDⓈ-M docs, "All Market Mini Tickers Stream"). After a gap this long (exchange
ms) the tickers before it prove nothing about those after it."""


class LivenessGuard:
    """Call `receive` with tickers as they come, and `check` every second. It has no tasks of its own."""

    def __init__(
        self,
        pool: Pool,
        control: Connection,
        config: settings.Ingest,
        stats: Stats,
        log: logging.Logger,
        timings: Timings = DEFAULT_TIMINGS,
    ) -> None:
        self._pool, self._control, self._config, self._stats, self._log = pool, control, config, stats, log
        self._liveness = Liveness(config.dead_symbol_ms, timings)
        self._silence = SilenceDetector(config.dead_symbol_ms, config.silent_s * 1000.0)
        self._tickers = TickerReference(max(GAP_MS, config.dead_symbol_ms))
        self._serials: dict[str, int] = {}
        self._tickers_late_ms = timings.tickers_late_ms
        self._control_since_ms = 0
        self._traded_ms = 0
        expect(stats, SILENT, DEAD_SYMBOL, SILENT_CONTROL, STALE_ROUTE)

    def is_alive(self, symbol: str, connection: Connection) -> bool:
        """Whether this symbol's trades arrive: it is not dead, and its connection has brought something, or tickers
        prove that there was nothing to bring."""
        if not self._liveness.is_alive(symbol):
            return False
        return connection.delivers or self._liveness.is_quiet(symbol, self._tickers)

    def receive(self, tickers: list[Ticker], latest: Latest, speed: float) -> list[Ticker]:
        """Tickers came; the result are those that moved. `speed` is how fast the exchange's clock runs."""
        moved = self._tickers.observe(tickers)
        newest_ms = {each.symbol: latest[each.symbol][0] for each in moved if each.symbol in latest}
        self._liveness.compare(moved, newest_ms, max(1.0, speed))
        return moved

    def check(self, latest: Latest, exchange_ms: int, now_ms: float, speed: float) -> None:
        """Check what arrived until `exchange_ms` (exchange ms; `now_ms` is local), and heal what did not."""
        scale = max(1.0, speed)
        self._expect(exchange_ms)
        traded_ms = {symbol: each[0] for symbol, each in latest.items()}
        self._traded_ms = max(traded_ms.values(), default=0)
        for symbol in self._liveness.revived(traded_ms, scale):
            self._log.warning("trades of %s arrive again", symbol)
        up = {each.name: symbols for each, symbols in self._pool.carried if each.is_up}
        for remedy in self._liveness.remedies(up, traded_ms, exchange_ms, scale):
            self._heal(remedy)
        self._stats.show("dead_symbols", len(self._liveness.dead))
        self._check_control(exchange_ms, scale)
        self._check_route(now_ms, up=bool(up) and self._control.is_up and speed > 0)

    def _expect(self, exchange_ms: int) -> None:
        """Expect trades of the connections that are up, from when they were up."""
        self._liveness.expect([each for _, symbols in self._pool.carried for each in symbols], exchange_ms)
        for connection, symbols in self._pool.carried:
            if not connection.is_up or self._serials.get(connection.name) != connection.serial:
                self._serials[connection.name] = connection.serial
                self._liveness.renewed(symbols, exchange_ms)
        if not self._control.is_up or self._serials.get(self._control.name) != self._control.serial:
            self._serials[self._control.name] = self._control.serial
            self._control_since_ms = exchange_ms

    def _heal(self, remedy: Remedy) -> None:
        connection = next(each for each in self._pool.connections if each.name == remedy.carrier)
        late = f"trades lag {remedy.late_ms / 1000:.1f} s behind their tickers"
        if remedy.action is Action.CUT:
            sentence = f"connection {remedy.carrier} is up and silent, {late}: {remedy.action.value}"
            alarm(self._stats, self._log, SILENT, sentence)
            connection.cut(SILENT, "it brought no trades")
            return
        sentence = f"{remedy.symbol} on connection {remedy.carrier} is silent, {late}: {remedy.action.value}"
        alarm(self._stats, self._log, DEAD_SYMBOL, sentence)
        if remedy.action is Action.RESUBSCRIBE:
            connection.resubscribe(self._pool.streams_of([remedy.symbol]))
        else:
            connection.replace(f"it does not bring {remedy.symbol}")

    def _check_control(self, exchange_ms: int, scale: float) -> None:
        """Trades are the reference for tickers, as tickers are for trades."""
        late_ms = self._traded_ms - max(self._tickers.last_ms, self._control_since_ms)
        if self._control.is_up and late_ms > (self._config.dead_symbol_ms + self._tickers_late_ms) * scale:
            sentence = f"trades come, and no tickers for {late_ms / 1000:.1f} s: the control connection is made anew"
            alarm(self._stats, self._log, SILENT_CONTROL, sentence)
            self._control_since_ms = exchange_ms
            self._control.cut(SILENT_CONTROL, "it brought no tickers")

    def _check_route(self, now_ms: float, *, up: bool) -> None:
        silent_ms = self._silence.check(self._traded_ms, self._tickers.last_ms, now_ms, up=up)
        if silent_ms:
            sentence = (
                f"nothing at all came for {silent_ms / 1000:.0f} s over connections that are up: the exchange stands "
                "still, or has moved its streams (exchange.websocket_url); all connections are made anew"
            )
            alarm(self._stats, self._log, STALE_ROUTE, sentence)
            for each in (self._control, *self._pool.connections):
                each.cut(STALE_ROUTE, "nothing came at all")
