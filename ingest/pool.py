"""The connections of a line: which of them carries which symbol, and new ones as the universe grows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence

from ingest.connection import Connection
from klagg.binance.endpoints import stream_name


def placed(parts: Sequence[frozenset[str]], wanted: Collection[str], size: int) -> list[frozenset[str]]:
    """`wanted` over parts of at most `size`: a symbol that is still wanted keeps its part, new ones fill the first
    parts with free places, and further parts follow.

    A part may become empty; it stays, so that the others keep their places. Parts that are too large stay so.
    """
    left = set(wanted)
    kept: list[set[str]] = []
    for part in parts:
        kept.append(set(part) & left)
        left -= part
    new = sorted(left)
    for each in kept:
        room = max(0, size - len(each))
        each.update(new[:room])
        new = new[room:]
    kept += [set(new[start : start + size]) for start in range(0, len(new), size)]
    return [frozenset(each) for each in kept]


class Pool:
    """Connections that together carry the `source` of some symbols; `make` makes one from its number and streams."""

    def __init__(self, source: str, size: int, make: Callable[[int, Collection[str]], Connection]) -> None:
        self._source, self._size, self._make = source, size, make
        self._parts: list[frozenset[str]] = []
        self._grown = asyncio.Event()
        self.connections: list[Connection] = []

    @property
    def carried(self) -> list[tuple[Connection, frozenset[str]]]:
        """Each connection with its symbols."""
        return list(zip(self.connections, self._parts, strict=True))

    def follow(self, symbols: Collection[str]) -> None:
        """Carry these symbols from now on."""
        parts = placed(self._parts, symbols, self._size)
        for number, part in enumerate(parts):
            if number == len(self.connections):
                self.connections.append(self._make(number + 1, self.streams_of(part)))
                self._grown.set()
            elif part != self._parts[number]:
                self.connections[number].follow(self.streams_of(part))
        self._parts = parts

    def streams_of(self, symbols: Collection[str]) -> list[str]:
        """The names of their streams."""
        return [stream_name(each, self._source) for each in symbols]

    async def run(self) -> None:
        """Run all connections until cancelled; the first error of one is raised."""
        running: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                self._grown.clear()
                for each in self.connections[len(running) :]:
                    running[each.name] = asyncio.create_task(each.run(), name=f"connection {each.name}")
                grown = asyncio.create_task(self._grown.wait())
                done, _ = await asyncio.wait({grown, *running.values()}, return_when=asyncio.FIRST_COMPLETED)
                grown.cancel()
                for task in done:
                    task.result()
        finally:
            for task in running.values():
                task.cancel()
            await asyncio.gather(*running.values(), return_exceptions=True)
