"""Every fault of a fault script, one after the other: each is noticed and healed, and in the end nothing is missing.

One run of the real processes, with two lines, plays season.toml; each test then looks at one thing that it shows.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from klagg.embedded import PostgresServer, RedisServer
from klagg.intervals import MINUTE_MS
from klagg.kline import NINE_VALUES
from tests.aggregator.oracle import fold
from tests.endtoend.kit import FLOOR, PROVEN_S, Stack, is_whole, migrated, stack, table
from tests.kit import eventually

pytestmark = [pytest.mark.endtoend, pytest.mark.servers, pytest.mark.timeout(900)]

SCRIPT = Path(__file__).with_name("season.toml")
SYMBOLS, RATE, SPEED = 24, 120, 8
FAULTS_END_S = 800
PLAIN_S = 80
"""From then on all processes run, as long as the machine is not much slower than ours."""
ASKING = ("repair", "clock", "ingest", "ingest-b")
"""Who asks the exchange. One of them gets a refusal, and then all of them pause."""
CHANGING = {"XRPUSDT", "DOGEUSDT"}
"""Symbols that are not there all the time."""
OFFICIAL = (1, 2, 3, 4, 5, 7, 8, 9, 10)
"""Where the nine values stand in a row of the exchange's klines."""

Row = dict[str, Any]
Nine = tuple[Decimal, ...]


@dataclass
class Season:
    """What a run leaves: logs by process, the table, the minutes of the exchange (its own klines, and its trades folded
    by the oracle), events and findings as text columns."""

    logs: dict[str, str]
    rows: dict[tuple[str, int], Row]
    official: dict[tuple[str, int], Nine]
    folded: dict[tuple[str, int], Nine]
    events: list[dict[str, str]]
    findings: list[dict[str, str]]
    faults: list[Row]

    def said(self, pattern: str, *processes: str) -> list[str]:
        """The lines of these logs that match."""
        lines = (line for name in processes for line in self.logs[name].splitlines())
        return [line for line in lines if re.search(pattern, line)]


def texts(running: Stack, key: str) -> list[dict[str, str]]:
    """All entries of a stream."""
    streams = running.streams()
    found = [{name.decode(): value.decode() for name, value in each.fields.items()} for each in streams.range(key)]
    streams.close()
    return found


def about(event: dict[str, str], symbol: str) -> bool:
    """Whether an event tells of a symbol's gaps."""
    return event["kind"].startswith("gap") and symbol in event["symbol"].split(",")


def klines(running: Stack, symbol: str, first: int, last: int) -> dict[tuple[str, int], Nine]:
    """The exchange's own minutes."""
    rows = running.ask(f"/fapi/v1/klines?symbol={quote(symbol)}&interval=1m&startTime={first}&endTime={last}&limit=500")
    return {(symbol, row[0]): tuple(Decimal(str(row[at])) for at in OFFICIAL) for row in rows}


def folded(running: Stack, symbol: str, first: int, last: int) -> dict[tuple[str, int], Nine]:
    """The minutes that the exchange's record gives: an aggregate trade stands in the minute of its first fill."""
    rows = running.recorded(symbol, first - 10 * MINUTE_MS, last + MINUTE_MS)
    return {(symbol, open_ms): values[:9] for (_, _, open_ms), values in fold(rows, ("1m",), last).items()}  # type: ignore[misc]


def same(season: Season, key: tuple[str, int]) -> bool:
    """Whether a bar is what its trades give, or, where the exchange's klines healed it, its own."""
    row = season.rows[key]
    wanted = season.folded[key] if row["source"] == "own" else season.official[key]
    return tuple(Decimal(row[name]) for name in NINE_VALUES) == wanted


@pytest.fixture(scope="module")
def season(redis_server: RedisServer, postgres_server: PostgresServer) -> Iterator[Season]:
    redis_server.command("FLUSHALL")
    url = postgres_server.create_database("season")
    database = migrated(url)
    market = [
        "--symbols",
        str(SYMBOLS),
        "--rate",
        str(RATE),
        "--seed",
        "5",
        "--speed",
        str(SPEED),
        "--faults",
        str(SCRIPT),
        "--wait",
        *FLOOR,
    ]
    with (
        tempfile.TemporaryDirectory() as folder,
        stack(
            Path(folder),
            redis_server.url,
            url,
            market,
            aggregator={"intervals": ("1m", "5m")},
            exchange={"symbols_per_connection": 8},
            clock={"sync_s": 1, "listings_s": 5},
            ingest={"dead_symbol_ms": 1000, "stalled_ms": 1000, "silent_s": 5},
        ) as running,
    ):
        began = int(running.ask("/klagg/state")["startTime"])
        running.start("clock", "repair", "aggregator", "writer", "ingest", "ingest-b")

        def now_ms() -> int:
            running.alive()
            return int(running.ask("/klagg/state")["serverTime"])

        over = began + FAULTS_END_S * 1000
        eventually(lambda: now_ms() >= over, FAULTS_END_S / SPEED + 90, 0.5)
        first = ((began + PLAIN_S * 1000) // MINUTE_MS + 1) * MINUTE_MS
        last = (over // MINUTE_MS - 1) * MINUTE_MS
        faults = running.ask("/klagg/state")["faults"]
        names = [each["symbol"] for each in running.ask("/fapi/v1/exchangeInfo")["symbols"]]
        official = {key: row for name in names for key, row in klines(running, name, first, last).items()}
        own = {key: row for name in names for key, row in folded(running, name, first, last).items()}
        expected = [key for key in official if key[0] not in CHANGING]
        silent = [name for name in names if name not in CHANGING]

        def all_traded_again() -> bool:
            nonlocal silent
            now = now_ms()
            silent = [name for name in silent if not running.recorded(name, over, now)]
            return not silent

        eventually(all_traded_again, PROVEN_S, 0.5)

        def healed() -> dict[tuple[str, int], Row]:
            now_ms()
            rows = table(database)
            lacking = [key for key in expected if not ((row := rows.get(key)) and is_whole(row))]
            if lacking:
                bars = [(key, row["source"], row["trades"]) for key in lacking[:5] if (row := rows.get(key))]
                told = [each for each in texts(running, "events:{0}") if about(each, lacking[0][0])]
                raise AssertionError(f"{len(lacking)} bars are not proven: {lacking[:5]}; in the table: {bars}; {told}")
            return rows

        rows = eventually(healed, 240, 0.5)
        events, findings = texts(running, "events:{0}"), texts(running, "findings:{0}")
        assert set(running.stop("ingest", "ingest-b", "repair", "clock", "aggregator", "writer").values()) == {0}
        logs = {name: child.text() for name, child in running.children.items()}
    database.close()
    yield Season(logs, rows, official, own, events, findings, faults)
    postgres_server.drop_database("season")


def test_every_fault_took_place(season: Season) -> None:
    of_the_market = ("listing", "delisting", "relisting", "tick_size")  # the other tests see those in the table
    assert not [each for each in season.faults if not each["acted"] and each["kind"] not in of_the_market]


def test_nothing_is_missing_and_nothing_is_twice(season: Season) -> None:
    """Every minute of every symbol equals the exchange's own record, and is proven."""
    compared = 0
    for key in season.official.keys() - {key for key in season.official if key[0] in CHANGING}:
        assert same(season, key), key
        compared += 1
    assert compared >= (SYMBOLS - len(CHANGING)) * 8


@pytest.mark.parametrize(
    ("pattern", "processes"),
    [
        pytest.param(r"connection [AB]\d is down", ("ingest", "ingest-b"), id="disconnect"),
        pytest.param(r"is down \(.*503", ("ingest", "ingest-b"), id="refuse"),
        pytest.param(r"ALARM: connection A\d is up and silent", ("ingest",), id="silent"),
        pytest.param(r"ALARM: BTCUSDT on connection B\d is silent", ("ingest-b",), id="dead_symbol"),
        pytest.param(r"ALARM: (nothing at all came|connection B\d is up and silent)", ("ingest-b",), id="stale_route"),
        pytest.param(r"ALARM: connection A\d is stalled", ("ingest",), id="stall"),
        pytest.param(r"rejected_|rejected", ("ingest", "ingest-b"), id="malformed"),
        pytest.param(r"is down \(.*(too big|1009)", ("ingest", "ingest-b"), id="huge_frame"),
        pytest.param(r"429", ASKING, id="rest_429"),
        pytest.param(r"418", ASKING, id="rest_418"),
        pytest.param(r"503", ("repair", "clock"), id="rest_down"),
        pytest.param(r"ALARM: the exchange's clock jumped", ("clock",), id="clock_skew"),
    ],
)
def test_it_is_noticed(season: Season, pattern: str, processes: tuple[str, ...]) -> None:
    assert season.said(pattern, *processes), "\n".join(season.said("WARNING|ERROR", *processes))


def test_dead_and_silent_ones_are_alive_again(season: Season) -> None:
    assert season.said("trades of BTCUSDT arrive again", "ingest-b")


def test_gaps_were_opened_and_all_of_them_ended(season: Season) -> None:
    opened = sum(int(each["n"]) for each in season.events if each["kind"] == "gap_opened")
    closed = sum(int(each["n"]) for each in season.events if each["kind"] == "gap_closed")
    assert opened > 0
    assert closed >= opened, "a gap may end in pieces"


def test_nothing_was_lost_on_the_way(season: Season) -> None:
    assert not [each for each in season.findings if each["kind"] in ("DATA_LOSS", "INGEST_DROPPED", "UNREPAIRED")]


def test_listing_delisting_and_relisting_are_followed(season: Season) -> None:
    said = [
        (symbol, each["kind"])
        for each in season.events
        if each["kind"] in ("listed", "delisted", "genesis")
        for symbol in each["symbol"].split(",")
        if symbol in CHANGING
    ]
    assert ("XRPUSDT", "genesis") in said
    assert said.index(("DOGEUSDT", "delisted")) < len(said) - 1 - said[::-1].index(("DOGEUSDT", "genesis"))
    listed = sorted(key for key in season.official if key[0] == "XRPUSDT")
    assert listed
    for key in listed:
        assert same(season, key), key
        assert is_whole(season.rows[key]), key


def test_a_finer_tick_is_taken_exactly(season: Season) -> None:
    finer = [row for (name, _), row in season.rows.items() if name == "SOLUSDT"]
    assert len({Decimal(row["close"]).as_tuple().exponent for row in finer if row["trades"]}) >= 1
    assert season.said("SOLUSDT trades at finer steps", "ingest", "ingest-b") or season.said("SOLUSDT", "clock")
