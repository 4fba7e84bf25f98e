"""Halts, openings and words that nobody has seen, with real processes: what exchangeInfo says ends nothing by itself.

The simulator's exchangeInfo says what the script tells it to; `!contractInfo` tells nothing of it.
"""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import ujson

from klagg.drivers.redis_streams import Streams
from klagg.intervals import MINUTE_MS
from klagg.wire.entries import event_rows
from klagg.wire.fields import texts_of
from klagg.wire.keys import heartbeat_key
from tests.endtoend.kit import FLOOR, Stack, migrated, stack, table
from tests.kit import eventually

pytestmark = [pytest.mark.endtoend, pytest.mark.servers, pytest.mark.timeout(600)]

SPEED = 4
ETH, SOL, ADA, BTC = "ETHUSDT", "SOLUSDT", "ADAUSDT", "BTCUSDT"
HALT_S, PAUSE_S, OPENS_S = (160, 400), (200, 340), 240
"""From when until when (exchange seconds since the start) exchangeInfo says that ETHUSDT is halted, and it pauses; and
when SOLUSDT begins to trade."""

SCRIPT = f"""
[[fault]]
kind = "status"
at_s = {HALT_S[0]}
for_s = {HALT_S[1] - HALT_S[0]}
symbols = ["{ETH}"]
word = "TRADING_HALT"
[[fault]]
kind = "pause"
at_s = {PAUSE_S[0]}
for_s = {PAUSE_S[1] - PAUSE_S[0]}
symbols = ["{ETH}"]
[[fault]]
kind = "status"
at_s = {HALT_S[0]}
for_s = {HALT_S[1] - HALT_S[0]}
symbols = ["{ADA}"]
word = "BREAK_2027"
contract_type = "PERPETUAL_2027"
[[fault]]
kind = "status"
symbols = ["{SOL}"]
word = "PENDING_TRADING"
contract_type = ""
[[fault]]
kind = "pause"
at_s = 0
for_s = {OPENS_S}
symbols = ["{SOL}"]
"""


def script(folder: Path, text: str) -> list[str]:
    path = folder / "faults.toml"
    path.write_text(text)
    return ["--faults", str(path)]


def alarms(streams: Streams, process: str) -> dict[str, str]:
    """The alarms of a process that stand now, by kind, as its heartbeat has them."""
    beat = streams.values_like(heartbeat_key(process)).get(heartbeat_key(process))
    return {each["kind"]: each["reason"] for each in ujson.loads(beat)["alarms"]} if beat else {}


def listed(streams: Streams, symbol: str) -> list[tuple[str, str]]:
    """Kind and status of the events about a symbol's listing."""
    fields = [texts_of(entry.fields) for entry in streams.range("events:{0}")]
    rows = [
        (each["kind"], row) for each in fields if each["kind"] in ("listed", "delisted") for row in event_rows(each)
    ]
    return [(kind, row["status"]) for kind, row in rows if row["symbol"] == symbol]


def elapsed_s(running: Stack) -> float:
    """Exchange seconds since the simulator's start."""
    running.alive()
    state = running.ask("/klagg/state")
    return float(state["serverTime"] - state["startTime"]) / 1000


def test_a_halt_an_opening_and_a_new_word_end_nothing(tmp_path: Path, redis_url: str, database_url: str) -> None:
    market = ["--symbols", "8", "--rate", "80", "--seed", "5", "--speed", str(SPEED), "--wait", *FLOOR]
    database = migrated(database_url)
    with stack(
        tmp_path,
        redis_url,
        database_url,
        [*market, *script(tmp_path, SCRIPT)],
        aggregator={"intervals": ("1m", "5m", "1h", "1d")},
        clock={"sync_s": 1, "statuses_s": 2},
        ingest={"dead_symbol_ms": 5000},
    ) as running:
        streams = running.streams()
        began = int(running.ask("/klagg/state")["startTime"])
        running.start("clock", "repair", "aggregator", "writer", "snapshot", "ingest")
        running.wait_until(lambda: {row["symbol"] for row in table(database).values()} >= {ETH, ADA, BTC}, 90, 0.2)
        assert SOL not in {row["symbol"] for row in table(database).values()}, "it is not carried before it trades"

        def halted() -> str:
            return alarms(streams, "clock").get("halted", "")

        running.wait_until(
            lambda: "2 more" in halted() or "1 more" in halted() or elapsed_s(running) > HALT_S[1], 120, 0.2
        )
        assert "TRADING_HALT" in halted() or "BREAK_2027" in halted()
        opened_s = running.wait_until(lambda: SOL in symbols(streams) and elapsed_s(running), 120, 0.2)
        assert opened_s - OPENS_S <= 60 * SPEED, "within a minute of its first trade, though exchangeInfo is silent"
        running.wait_until(lambda: elapsed_s(running) > HALT_S[1] and not halted(), 120, 0.2)
        last = (began + HALT_S[1] * 1000) // MINUTE_MS * MINUTE_MS - 1
        official = {
            (name, int(row[0])): row
            for name in (ETH, ADA, BTC)
            for row in running.ask(
                f"/fapi/v1/klines?symbol={name}&interval=1m&startTime={began + 90_000}&endTime={last}"
            )
        }

        def proven() -> dict[tuple[str, int], dict[str, Any]]:
            rows = table(database)
            lacking = [key for key in official if not ((row := rows.get(key)) and row["complete"])]
            assert not lacking, lacking
            return rows

        rows = running.wait_until(proven, 120, 0.5)
        quiet = 0
        for name, open_ms in official:
            trades = running.recorded(name, open_ms, open_ms + MINUTE_MS - 1)
            ours = rows[name, open_ms]
            assert ours["trades"] == sum(each.last - each.first + 1 for each in trades), (name, open_ms)
            assert ours["volume"] == sum(Decimal(each.qty) for each in trades), (name, open_ms)
            if not trades:
                quiet += name == ETH
                flat = [Decimal(each) for each in official[name, open_ms][1:5]]
                assert [ours[each] for each in ("open", "high", "low", "close")] == flat, (name, open_ms)
        assert quiet, "the pause has flat bars, as the exchange has them"
        for name, word in ((ETH, "TRADING_HALT"), (ADA, "BREAK_2027")):
            assert listed(streams, name) == [("listed", "TRADING"), ("listed", word), ("listed", "TRADING")]
            assert not [row for (symbol, _), row in table(database, "1d").items() if symbol == name and row["revision"]]
        gone = "SELECT symbol FROM symbols WHERE delisted_at IS NOT NULL"
        assert [row["symbol"] for row in database.query(gone)] == []
        statuses = {row["symbol"]: row["status"] for row in database.query("SELECT symbol, status FROM symbols")}
        assert (statuses[ETH], statuses[SOL]) == ("TRADING", "PENDING_TRADING")
        assert set(running.stop("ingest", "repair", "clock", "aggregator", "writer", "snapshot").values()) == {0}
        log = running.children["clock"].text()
        assert log.count(f"ALARM: the exchange lists {ETH} as TRADING_HALT") == 1
        assert log.count("has a new word, status 'BREAK_2027'") == 1
        assert log.count("ALARM: the exchange has a new word, contract_type 'PERPETUAL_2027'") == 1
        assert "no longer carries" not in running.children["ingest"].text()
        streams.close()
    database.close()


def symbols(streams: Streams) -> set[str]:
    """The symbols whose trades are in the feed."""
    return {
        name
        for entry in streams.range("feed:{0}")
        if entry.fields[b"kind"] == b"trades"
        for name in entry.fields[b"symbol"].decode().split(",")
    }


@pytest.mark.parametrize(
    ("chosen", "fault"),
    [
        pytest.param(ETH, f'word = "TRADING_HALT"\nsymbols = ["{ETH}"]', id="halted"),
        pytest.param(ETH, f'word = "PENDING_TRADING"\ncontract_type = ""\nsymbols = ["{ETH}"]', id="pending"),
        pytest.param("NOSUCHUSDT", f'word = "TRADING"\nsymbols = ["{ETH}"]', id="not listed"),
    ],
)
def test_no_choice_of_symbols_ends_a_process(
    tmp_path: Path, redis_url: str, database_url: str, chosen: str, fault: str
) -> None:
    """It waits, says so, and goes on when the symbol comes; the one that never comes is waited for."""
    text = f'[[fault]]\nkind = "pause"\nat_s = 0\nfor_s = 50\nsymbols = ["{ETH}"]\n'
    text += f'[[fault]]\nkind = "status"\nfor_s = 60\n{fault}\n'
    market = ["--symbols", "8", "--rate", "80", "--seed", "5", *FLOOR, *script(tmp_path, text)]
    with stack(
        tmp_path,
        redis_url,
        database_url,
        market,
        exchange={"symbols": (chosen,)},
        clock={"sync_s": 1, "statuses_s": 2},
        database={"enabled": False},
    ) as running:
        streams = running.streams()
        running.start("clock", "repair", "aggregator", "ingest")
        kind = "halted" if "HALT" in fault else "waiting"
        sentence = running.wait_until(lambda: alarms(streams, "clock").get(kind, ""), 60, 0.2)
        assert chosen in sentence
        if chosen == ETH:
            running.wait_until(lambda: symbols(streams) == {ETH}, 150, 0.2)
            running.wait_until(lambda: kind not in alarms(streams, "clock"), 120, 0.2)
        else:
            running.wait_until(lambda: "waiting" in alarms(streams, "ingest-A"), 60, 0.2)
            eventually(lambda: elapsed_s(running) > 30, 60, 0.2)
        assert set(running.stop("ingest", "repair", "clock", "aggregator").values()) == {0}
        streams.close()
