"""Which symbols' trades arrive, by data alone: an acknowledged subscription may stay silent for ever. Pure.

The independent reference are the tickers of `!ticker@arr`, on a connection of their own (Binance USDⓈ-M docs, "All
Market Tickers Streams"). A ticker moves when there is a trade: its price changes, or its volume grows (as the day
that it covers moves on, the volume only shrinks). A symbol is dead when its ticker moved twice more than `dead_ms`
after the symbol's newest trade. A symbol whose ticker stands still is merely quiet. Without tickers nothing is
concluded. All times are exchange ms, except in SilenceDetector.

The remedy for a dead symbol: first it is subscribed to anew, then its connection is handed over, again and again in
longer and longer pauses. A connection that brought no trade of any of its symbols lately is cut at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from ingest.timings import DEFAULT_TIMINGS, Timings
from klagg.binance.payloads import Ticker

GAPS: Final = 5
ARRIVALS_LEAST: Final = 30
FADE: Final = 0.98
"""How the longest pause between two arrivals fades with each further one: a half is left after 34."""

PAUSE_MS_MAX: Final = 600_000
"""Longest pause (exchange ms; for SilenceDetector local ms) between two attempts to heal the same thing."""


class Action(Enum):
    """What is to be done."""

    RESUBSCRIBE = "its subscription is made anew"
    REPLACE = "its connection is replaced"
    CUT = "the connection is made anew"


@dataclass(frozen=True, slots=True)
class Remedy:
    """What is to be done now about a dead `symbol` (or "" for all symbols) of the connection `carrier`.

    `late_ms` is by how much the newest trade is behind the ticker (exchange ms).
    """

    action: Action
    carrier: str
    symbol: str
    late_ms: int


@dataclass(slots=True)
class _SymbolState:
    """One symbol: since when its trades are expected (`since_ms`), and since when it is suspected to be dead (0: it is
    not). `newest_ms` is its newest trade then, `moved_ms` the last movement of its ticker, `due` that a remedy is
    due."""

    since_ms: int
    suspected_since_ms: int = 0
    newest_ms: int = 0
    dead: bool = False
    attempts: int = 0
    due: bool = False
    moved_ms: int = 0


@dataclass(slots=True)
class TickerReference:
    """The tickers as they come: which symbols moved, and for how long tickers have come without a gap.

    All in exchange ms: `gap_ms` without a ticker is a gap, `last_ms` is the time of the newest ticker, `streak_ms` that
    of the first one after the last gap.
    """

    gap_ms: int
    last_ms: int = 0
    streak_ms: int = 0
    _latest: dict[str, Ticker] = field(default_factory=dict)

    def observe(self, tickers: Collection[Ticker]) -> list[Ticker]:
        """The tickers among `tickers` that prove a trade since the ticker before. After a gap every symbol begins
        anew."""
        newest_ms = max((each.time_ms for each in tickers), default=0)
        if newest_ms - self.last_ms > self.gap_ms:
            self._latest.clear()
            self.streak_ms = newest_ms
        self.last_ms = max(self.last_ms, newest_ms)
        moved = [each for each in tickers if _proves_trade(self._latest.get(each.symbol), each)]
        self._latest.update((each.symbol, each) for each in tickers)
        return moved


def _proves_trade(before: Ticker | None, now: Ticker) -> bool:
    if before is None or now.time_ms <= before.time_ms:
        return False
    return now.close != before.close or now.volume > before.volume


class Liveness:
    """The symbols that a line expects trades of.

    `dead_ms` and `Timings.apart_ms` are meant for an exchange clock at ×1; `scale`, at least 1, is how fast it runs.
    `traded_ms` maps symbols to the time of their newest trade.
    """

    def __init__(self, dead_ms: int, timings: Timings = DEFAULT_TIMINGS) -> None:
        self._dead_ms, self._apart_ms = dead_ms, timings.apart_ms
        self._states: dict[str, _SymbolState] = {}
        self._pauses: dict[str, int] = {}

    def expect(self, symbols: Collection[str], now_ms: int) -> None:
        """From `now_ms` on trades of exactly these symbols are expected: they are carried."""
        self._states = {each: self._states.get(each) or _SymbolState(now_ms) for each in symbols}

    def renewed(self, symbols: Iterable[str], now_ms: int) -> None:
        """The connection of these symbols is new: what was missed before `now_ms` no longer counts."""
        for state in self._known(symbols):
            state.since_ms, state.suspected_since_ms = max(state.since_ms, now_ms), 0

    def is_alive(self, symbol: str) -> bool:
        """Whether trades of this symbol are expected and it is not dead."""
        state = self._states.get(symbol)
        return state is not None and not state.dead

    def is_quiet(self, symbol: str, reference: TickerReference) -> bool:
        """Whether tickers have come for long enough to prove that this symbol has no trades that could arrive."""
        state = self._states.get(symbol)
        if state is None or state.suspected_since_ms:
            return False
        return reference.last_ms - max(state.since_ms, reference.streak_ms) > self._dead_ms + self._apart_ms

    @property
    def dead(self) -> list[str]:
        """The symbols that are dead now."""
        return sorted(name for name, state in self._states.items() if state.dead)

    def compare(self, moved: Iterable[Ticker], traded_ms: Mapping[str, int], scale: float) -> None:
        """Compare tickers that moved with the newest trades: a symbol is suspected, dead, or neither."""
        for ticker in moved:
            state = self._states.get(ticker.symbol)
            if state is None:
                continue
            state.moved_ms, newest_ms = ticker.time_ms, traded_ms.get(ticker.symbol, 0)
            if ticker.time_ms - max(newest_ms, state.since_ms) <= self._dead_ms * scale:
                state.suspected_since_ms = 0
            elif not state.suspected_since_ms or state.newest_ms != newest_ms:
                # The first movement, or the trade of the one before has arrived since.
                state.suspected_since_ms, state.newest_ms = ticker.time_ms, newest_ms
            elif ticker.time_ms - state.suspected_since_ms >= self._apart_ms * scale:
                state.dead = state.due = True

    def revived(self, traded_ms: Mapping[str, int], scale: float) -> list[str]:
        """The dead symbols whose trades arrive again, as new as the ticker. They are alive from now on."""
        back = [
            name
            for name, state in self._states.items()
            if state.dead and traded_ms.get(name, 0) >= state.moved_ms - self._apart_ms * scale
        ]
        for name in back:
            self._states[name] = _SymbolState(self._states[name].since_ms)
        return back

    def remedies(
        self, carriers: Mapping[str, Collection[str]], traded_ms: Mapping[str, int], now_ms: int, scale: float
    ) -> list[Remedy]:
        """What is to be done at `now_ms` about dead symbols. `carriers`: the connections that are up, with their
        symbols."""
        found: list[Remedy] = []
        for carrier, symbols in carriers.items():
            due = [name for name in symbols if (state := self._states.get(name)) and state.due]
            newest_ms = max((traded_ms.get(name, 0) for name in symbols), default=0)
            if not due:
                if now_ms - newest_ms <= self._dead_ms * scale:
                    self._pauses.pop(carrier, None)
                continue
            late_ms = max(self._late_ms(name, traded_ms) for name in due)
            if now_ms - newest_ms > self._dead_ms * scale:
                found.append(Remedy(Action.CUT, carrier, "", late_ms))
                self._pause(symbols, now_ms, self._pauses.get(carrier, 0))
                self._pauses[carrier] = min(PAUSE_MS_MAX, 2 * self._pauses.get(carrier, 0) or self._dead_ms)
                continue
            found += self._each(carrier, due, traded_ms, now_ms)
        return found

    def _each(self, carrier: str, due: Iterable[str], traded_ms: Mapping[str, int], now_ms: int) -> list[Remedy]:
        found = []
        for name in due:
            state = self._states[name]
            action = Action.REPLACE if state.attempts else Action.RESUBSCRIBE
            found.append(Remedy(action, carrier, name, self._late_ms(name, traded_ms)))
            self._pause([name], now_ms, min(PAUSE_MS_MAX, self._dead_ms * (2**state.attempts - 1)))
            state.attempts = min(state.attempts + 1, 16)
        return found

    def _late_ms(self, name: str, traded_ms: Mapping[str, int]) -> int:
        """By how much (ms) the newest trade is behind the ticker."""
        state = self._states[name]
        return state.moved_ms - (traded_ms.get(name) or state.since_ms)

    def _pause(self, symbols: Iterable[str], now_ms: int, pause_ms: int) -> None:
        """Something is done about these symbols: what is missed until `pause_ms` from now on no longer counts."""
        for state in self._known(symbols):
            state.since_ms, state.suspected_since_ms, state.due = now_ms + pause_ms, 0, False

    def _known(self, symbols: Iterable[str]) -> list[_SymbolState]:
        return [self._states[each] for each in symbols if each in self._states]


class SilenceDetector:
    """Detects that nothing at all comes from the exchange, though connections are up. Its times are local ms.

    The limit is `silent_ms`. Once there were ARRIVALS_LEAST arrivals, it is GAPS times the longest recent pause between
    two of them, at least `least_ms` and at most `silent_ms`.
    """

    def __init__(self, least_ms: float, silent_ms: float) -> None:
        self._least_ms, self._silent_ms = min(least_ms, silent_ms), silent_ms
        self._newest = (0, 0)
        self._arrival_ms: float | None = None
        self._gap_ms = 0.0
        self._arrivals = 0
        self._factor = 1
        self.silent = False
        """Whether nothing has come since it was noticed that nothing comes."""

    def check(self, traded_ms: int, ticked_ms: int, now_ms: float, *, up: bool) -> float:
        """How long (local ms) nothing came, when that is too long; 0 otherwise.

        `traded_ms` and `ticked_ms` are the times (exchange ms) of the newest trade and ticker, `now_ms` is local.
        Without anything `up` nothing is awaited. After each alarm the limit doubles, up to PAUSE_MS_MAX.
        """
        newest = (traded_ms, ticked_ms)
        if newest != self._newest:
            if self._arrival_ms is not None:
                self._gap_ms = max(now_ms - self._arrival_ms, self._gap_ms * FADE)
            self._newest, self._arrival_ms, self._factor = newest, now_ms, 1
            self.silent = False
            self._arrivals += 1
        if not up or self._arrival_ms is None:
            self._arrival_ms = now_ms
        if now_ms - self._arrival_ms <= self._patience_ms:
            return 0.0
        silent_ms, self._arrival_ms = now_ms - self._arrival_ms, now_ms
        self._factor *= 2
        self.silent = True
        return silent_ms

    @property
    def _patience_ms(self) -> float:
        often = self._arrivals >= ARRIVALS_LEAST
        patience_ms = max(self._least_ms, GAPS * self._gap_ms) if often else self._silent_ms
        return min(max(PAUSE_MS_MAX, self._silent_ms), min(patience_ms, self._silent_ms) * self._factor)
