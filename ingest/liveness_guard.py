"""Guards a line's connections by what arrives: alarms when something does not, and heals it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from ingest.connection import Connection
from ingest.liveness import Action, Liveness, Remedy, SilenceDetector, TickerReference
from ingest.pool import Pool
from ingest.reasons import SILENT, SILENT_CONTROL, STALE_ROUTE
from ingest.timings import DEFAULT_TIMINGS, Timings
from klagg import settings
from klagg.binance.payloads import Ticker
from klagg.process.alarms import AlarmKind
from klagg.process.silence import SilenceWatch
from klagg.process.stats import Stats

Latest = Mapping[str, tuple[int, str, str]]
"""Time (exchange ms), price and quantity of each symbol's newest trade."""

GAP_MS: Final = 10_000
"""Tickers come every second (Binance USDⓈ-M docs, "All Market Tickers Streams"). After a gap this long (exchange
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
        self._market = SilenceWatch(config.silent_s * 1000.0)
        self._tickers = TickerReference(max(GAP_MS, config.dead_symbol_ms))
        self._serials: dict[str, int] = {}
        self._tickers_late_ms = timings.tickers_late_ms
        self._control_since_ms = 0
        self._traded_ms = 0

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
        self._end_alarms(traded_ms, exchange_ms, scale)
        self._stats.show("dead_symbols", len(self._liveness.dead))
        self._check_control(exchange_ms, scale)
        self._check_route(now_ms, up=bool(up) and self._control.is_up and speed > 0)
        self._check_market(now_ms, runs=speed > 0)

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

    def _end_alarms(self, traded_ms: Mapping[str, int], exchange_ms: int, scale: float) -> None:
        """A connection is silent until it brings a trade, a symbol dead until its trades arrive again."""
        alarms, silent = self._stats.alarms, []
        for connection, symbols in self._pool.carried:
            newest_ms = max((traded_ms.get(each, 0) for each in symbols), default=exchange_ms)
            if exchange_ms - newest_ms > self._config.dead_symbol_ms * scale:
                silent.append(connection.name)
        alarms.keep(AlarmKind.SILENT, silent)
        alarms.keep(AlarmKind.DEAD_SYMBOL, self._liveness.dead)

    def _heal(self, remedy: Remedy) -> None:
        connection = next(each for each in self._pool.connections if each.name == remedy.carrier)
        self._log.debug("remedy for %s: %s", remedy.symbol or remedy.carrier, remedy.action.value)
        late = f"trades lag {remedy.late_ms / 1000:.1f} s behind their tickers"
        if remedy.action is Action.CUT:
            sentence = f"connection {remedy.carrier} is up and silent, {late}: {remedy.action.value}"
            self._raise(AlarmKind.SILENT, sentence, remedy.carrier)
            connection.cut(SILENT, "it brought no trades")
            return
        sentence = f"{remedy.symbol} on connection {remedy.carrier} is silent, {late}: {remedy.action.value}"
        self._raise(AlarmKind.DEAD_SYMBOL, sentence, remedy.symbol)
        if remedy.action is Action.RESUBSCRIBE:
            connection.resubscribe(self._pool.streams_of([remedy.symbol]))
        else:
            connection.replace(f"it does not bring {remedy.symbol}")

    def _raise(self, kind: AlarmKind, sentence: str, of: str = "") -> None:
        """Raise an alarm; what is tried while it stands is logged too."""
        if not self._stats.alarms.raise_(kind, f"{sentence} (ingest.dead_symbol_ms)", of):
            self._log.warning("%s", sentence)

    def _check_control(self, exchange_ms: int, scale: float) -> None:
        """Trades are the reference for tickers, as tickers are for trades."""
        late_ms = self._traded_ms - max(self._tickers.last_ms, self._control_since_ms)
        if self._control.is_up and late_ms > (self._config.dead_symbol_ms + self._tickers_late_ms) * scale:
            sentence = f"trades come, and no tickers for {late_ms / 1000:.1f} s: the control connection is made anew"
            self._raise(AlarmKind.SILENT_CONTROL, sentence)
            self._control_since_ms = exchange_ms
            self._control.cut(SILENT_CONTROL, "it brought no tickers")
        elif self._tickers.last_ms > self._control_since_ms:
            self._stats.alarms.clear(AlarmKind.SILENT_CONTROL)

    def _check_route(self, now_ms: float, *, up: bool) -> None:
        silent_ms = self._silence.check(self._traded_ms, self._tickers.last_ms, now_ms, up=up)
        if silent_ms:
            sentence = (
                f"nothing at all came for {silent_ms / 1000:.0f} s over connections that are up: the exchange stands "
                "still, or has moved its streams (exchange.websocket_url); all connections are made anew"
            )
            if not self._stats.alarms.raise_(AlarmKind.STALE_ROUTE, sentence):
                self._log.warning("%s", sentence)
            for each in (self._control, *self._pool.connections):
                each.cut(STALE_ROUTE, "nothing came at all")
        elif not self._silence.silent:
            self._stats.alarms.clear(AlarmKind.STALE_ROUTE)

    def _check_market(self, now_ms: float, *, runs: bool) -> None:
        """Whatever the cause: a line that brings no trade of any symbol for `ingest.silent_s` says so until one
        comes."""
        silent_ms = self._market.check(self._traded_ms, now_ms, runs=runs)
        if silent_ms:
            sentence = (
                f"no trade of any symbol came over this line for {silent_ms / 1000:.0f} s: the exchange or the way to "
                "it is silent (ingest.silent_s; a choice of few quiet symbols needs a longer one)"
            )
            self._stats.alarms.raise_(AlarmKind.LINE_SILENT, sentence)
        else:
            self._stats.alarms.clear(AlarmKind.LINE_SILENT)
