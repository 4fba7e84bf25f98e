"""History from the database: a few connections, each with its own thread, and a bounded queue of queries."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from gateway.files import Digits, Places
from gateway.history import Range
from klagg.drivers.postgres import Database, Row
from klagg.drivers.statements import load_statements
from klagg.errors import KlaggError
from klagg.kline import Kline
from klagg.scoreboard import Board, board

QUERIES: Final = load_statements(Path(__file__).with_name("store.sql"))

TIME_MS_MAX: Final = 253_402_300_799_999
"""The end of the year 9999: a later time in a request means the same."""

WAITING_FOR_EACH: Final = 16
"""How many queries may wait for each connection."""

DIGITS_ROWS: Final = 100_000
"""Bars whose digits one query looks at, so that no query takes long."""

T = TypeVar("T")
Span = tuple[int, int]
"""From the first time (exchange ms) up to, but without, the second."""


class StoreBusy(KlaggError):
    """Too many queries wait for the database; try again later."""


class HistoryStore:
    """The database as the gateway reads it. `close` ends it.

    Every query raises StoreBusy (too many wait already), DatabaseUnavailable or DatabaseRefused.
    """

    def __init__(self, url: str, *, connections: int, timeout_ms: int) -> None:
        self._url, self._timeout_ms = url, timeout_ms
        self._places = connections * (1 + WAITING_FOR_EACH)
        self._executor = ThreadPoolExecutor(connections, "gateway-database")
        self._thread_local = threading.local()
        self._databases: list[Database] = []
        self._database()  # a URL that cannot be one is refused at once

    def close(self) -> None:
        """End all connections; waits for the queries that run."""
        self._executor.shutdown(wait=True, cancel_futures=True)
        for database in self._databases:
            database.close()

    def _database(self) -> Database:
        """The database of the calling thread."""
        database: Database | None = getattr(self._thread_local, "database", None)
        if database is None:
            database = Database(self._url, application="klagg-gateway", timeout_ms=self._timeout_ms)
            self._thread_local.database = database
            self._databases.append(database)
        return database

    async def _run(self, query: Callable[[Database], T]) -> T:
        if self._places <= 0:
            raise StoreBusy
        self._places -= 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._executor, lambda: query(self._database()))
        finally:
            self._places += 1

    async def klines(self, symbol: str, interval: str, wanted: Range) -> list[Kline]:
        """The wanted rows of a series, by open time."""
        last_ms = TIME_MS_MAX if wanted.end_ms is None else min(wanted.end_ms, TIME_MS_MAX)
        values = {"symbol": symbol, "interval": interval, "last_ms": last_ms, "limit": wanted.limit}
        if wanted.start_ms is None:
            found = await self._rows("klines_until", **values)
            found.reverse()
        else:
            found = await self._rows("klines_from", first_ms=min(wanted.start_ms, TIME_MS_MAX), **values)
        return [Kline(**row) for row in found]

    async def minutes_since(self, first_ms: int) -> list[Kline]:
        """The minutes of all symbols that open at `first_ms` (exchange ms) or later, by symbol and open time."""
        return [Kline(**row) for row in await self._rows("minutes_since", first_ms=first_ms)]

    async def days(self, first_ms: int, until_ms: int) -> list[Row]:
        """What the minutes that open from `first_ms` until `until_ms` (exchange ms) add up to, one row a symbol."""
        return await self._rows("days", first_ms=first_ms, until_ms=until_ms)

    async def digits(self, symbol: str, interval: str, start_ms: int, end_ms: int | None) -> Digits:
        """The places that the decimals of a series between two times (exchange ms, both included) need."""
        found = Digits()
        last_ms = TIME_MS_MAX if end_ms is None else min(end_ms, TIME_MS_MAX)
        while start_ms <= last_ms:
            values = {"symbol": symbol, "interval": interval, "first_ms": start_ms, "last_ms": last_ms}
            (row,) = await self._rows("digits", limit=DIGITS_ROWS, **values)
            if not row["bars"]:
                break
            kinds = ("price", "volume", "quote")
            found = found.joined(Digits(*(Places(row[f"{kind}_whole"], row[f"{kind}_fraction"]) for kind in kinds)))
            start_ms = row["last_ms"] + 1
            if row["bars"] < DIGITS_ROWS:
                break
        return found

    async def symbols(self) -> set[str]:
        """The names of all symbols in the table."""
        return {row["symbol"] for row in await self._rows("symbols")}

    async def gaps(self, symbol: str | None, open_only: bool, limit: int) -> list[Row]:
        """Gaps of the ledger, the newest first; of one symbol, or all."""
        return await self._rows("gaps", symbol=symbol, open_only=open_only, limit=limit)

    async def findings(self, symbol: str | None, severity: str | None, open_only: bool, limit: int) -> list[Row]:
        """Findings, the newest first; of one symbol or severity, or all; `open_only`: only open ones."""
        return await self._rows("findings", symbol=symbol, severity=severity, open_only=open_only, limit=limit)

    async def scoreboard(self, span: Span, symbol: str | None, intervals: Sequence[str], limit: int) -> Board:
        """Completeness and correctness by day (the newest first) and by symbol (the worst first, at most `limit`); of
        one symbol, or all."""
        symbols = [] if symbol is None else [symbol]
        return await self._run(lambda each: board(each, *span, symbols=symbols, intervals=intervals, worst=limit))

    async def _rows(self, name: str, **values: object) -> list[Row]:
        return await self._run(lambda database: database.query(QUERIES[name], values))
