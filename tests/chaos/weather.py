"""A hub that loses, doubles and delays trades on their way out of the simulator, by a seed."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from klagg.binance.serving.limits import Limits
from klagg.binance.serving.payloads import combined, text_frame
from klagg.simulator.hub import StreamConnection, StreamHub
from klagg.simulator.market import MarketTrade

T = TypeVar("T")

DELAY_MS_MAX = 1_000
BURST_MAX = 40
"""A symbol's trades that are lost in a row, at most."""

LOST_ALL = 0.000_02
"""How often a burst begins that no line gets: only REST can tell of these trades."""
LOST_ONE = 0.005
"""Share of trades that one of the connections does not get."""
DOUBLED = 0.005
DELAYED = 0.01


class FaultyHub(StreamHub):
    """Between `from_ms` and `to_ms` (event time) trades come to harm; `done` counts how."""

    def __init__(self, seed: int, from_ms: int, to_ms: int, *, scale: float = 1.0) -> None:
        """`scale` multiplies how often a burst is lost to all: a small run has too few trades for the usual share."""
        super().__init__(Limits().send_buffer_bytes)
        self._random = random.Random(seed)
        self._from_ms, self._to_ms = from_ms, to_ms
        self._lost_all = LOST_ALL * scale
        self._bursts: dict[str, int] = {}
        self._late: list[tuple[int, int, StreamConnection, bytes]] = []
        self._number = 0
        self._now_ms = 0
        self.done: Counter[str] = Counter()

    def publish(self, name: str, encode: Callable[[T], str], event: T) -> None:
        """As `StreamHub`, but for trades within the time of faults."""
        if not isinstance(event, MarketTrade):
            super().publish(name, encode, event)
            return
        self._now_ms = event.event_ms
        if not self._from_ms <= event.event_ms < self._to_ms:
            super().publish(name, encode, event)
            return
        if self._is_lost(name):
            self.done["lost to all lines"] += 1
            return
        listeners = list(self._listeners.get(name, ()))
        if not listeners:
            return
        payload = encode(event)
        fate, victim = self._random.random(), self._random.choice(listeners)
        for connection in listeners:
            text = combined(name, payload) if connection.subscriptions.combined else payload
            self._send(connection, text_frame(text), fate if connection is victim else 1.0)

    def _is_lost(self, name: str) -> bool:
        left = self._bursts.pop(name, 0)
        if not left and self._random.random() < self._lost_all:
            left = self._random.randint(1, BURST_MAX)
        if left > 1:
            self._bursts[name] = left - 1
        return left > 0

    def _send(self, connection: StreamConnection, frame: bytes, fate: float) -> None:
        if fate < LOST_ONE:
            self.done["lost to one line"] += 1
        elif fate < LOST_ONE + DOUBLED:
            self.done["doubled"] += 1
            self.queue(connection, frame)
            self.queue(connection, frame)
        elif fate < LOST_ONE + DOUBLED + DELAYED:
            self.done["delayed"] += 1
            self._number += 1
            due_ms = self._now_ms + self._random.randint(1, DELAY_MS_MAX)
            heapq.heappush(self._late, (due_ms, self._number, connection, frame))
        else:
            self.queue(connection, frame)

    def flush(self) -> None:
        """As `StreamHub`; what was held back long enough goes out too."""
        while self._late and self._late[0][0] <= self._now_ms:
            _, _, connection, frame = heapq.heappop(self._late)
            if connection in self.connections:
                self.queue(connection, frame)
        super().flush()
