"""The state of the whole market: the exchange's list, the live states of all shards, the symbols in the table. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gateway.health import Health
from gateway.live import LiveBar, LiveState
from klagg.binance.serving.exchange_info import ListedSymbol, ServedExchangeInfo
from klagg.intervals import Interval
from klagg.wire.keys import shard_of


@dataclass(slots=True)
class Shard:
    """The live state of one shard, the id of the newest `live` entry in it, and its health."""

    state: LiveState
    health: Health
    position: str = ""


@dataclass(slots=True)
class MarketState:
    """The symbols of all shards. `intervals` are those that the aggregators make, shortest first.

    `stored` are the names in the table; among them are symbols that are not traded any more. `names_read` says that
    they were read, or that there is no table. `info` is the exchange's exchangeInfo as it is served; None until it
    was read.
    """

    shards: Sequence[Shard]
    intervals: Sequence[Interval]
    stored: set[str] = field(default_factory=set)
    names_read: bool = False
    info: ServedExchangeInfo | None = None

    def bars(self, symbol: str, interval: str) -> list[LiveBar]:
        """The bars of a series in live state, by open time."""
        return self._state_of(symbol).bars(symbol, interval)

    def newest(self, symbol: str, interval: str) -> LiveBar | None:
        """The newest bar of a series in live state."""
        return self._state_of(symbol).newest(symbol, interval)

    def last(self, symbol: str) -> LiveBar | None:
        """The bar whose close is the symbol's last price: that of the shortest interval, which every tick updates."""
        state = self._state_of(symbol)
        return next((bar for each in self.intervals if (bar := state.newest(symbol, each.name))), None)

    def changed_ms(self, symbol: str, now_ms: int) -> int:
        """The exchange time (ms) of the symbol's last change in live state; `now_ms` if there is none."""
        bar = self.last(symbol)
        return bar.at_ms if bar else now_ms

    def _state_of(self, symbol: str) -> LiveState:
        return self.shards[shard_of(symbol, len(self.shards))].state

    def live_symbols(self) -> list[str]:
        """The symbols that live state has, sorted."""
        return sorted(set[str]().union(*(shard.state.symbols() for shard in self.shards)))

    def names(self) -> list[str]:
        """All symbols that klagg knows, sorted."""
        return sorted(self.stored.union(self.carried, self.live_symbols()))

    def __contains__(self, symbol: object) -> bool:
        """Whether klagg knows the symbol: carried, live or in the table."""
        return isinstance(symbol, str) and (
            symbol in self.stored or symbol in self.carried or self._state_of(symbol).has(symbol)
        )

    @property
    def carried(self) -> Mapping[str, ListedSymbol]:
        """The symbols of the exchange's list that klagg carries, in the exchange's order."""
        return self.info.symbols if self.info else {}

    def time_ms(self, now_ms: float) -> int:
        """Exchange time in ms: that of the newest tick, plus the time since then; `now_ms` is monotonic. 0: unknown."""
        newest = max(self.shards, key=lambda shard: shard.state.time_ms)
        if not newest.state.time_ms:
            return 0
        return newest.state.time_ms + max(0, int(now_ms - newest.health.moved_ms))

    def server_time_ms(self, now_ms: float, local_ms: float) -> int:
        """As `time_ms`; before the first tick from when exchangeInfo was asked, with the wall clock `local_ms`."""
        return self.time_ms(now_ms) or (self.info.kept.now_ms(local_ms) if self.info else 0)

    def stale_for_ms(self, now_ms: float) -> int:
        """How long (ms) the stalest shard has not changed, 0 if all are live; `now_ms` is monotonic."""
        return max(shard.health.stale_for_ms(now_ms) for shard in self.shards)

    def waits_for(self, symbol: str | None = None) -> str:
        """What is missing of the first full picture, "" if nothing: a request before that would get half an answer.

        For a `symbol` that is neither live nor listed the names in the table count too.
        """
        if self.info is None:
            return "the exchange's exchangeInfo, which klagg-clock reads"
        if not all(shard.position for shard in self.shards):
            return "the bars in progress, which are read from Redis"
        if symbol is not None and symbol not in self and not self.names_read:
            return "the names of the symbols in the table, which are read from the database"
        return ""
