"""`exchange.source = "trade"` with the real processes: every fill is taken, those that klines leave out count for
nothing, and a piece that is missing heals from the exchange's minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from klagg.cli.comparison import values_of_official
from klagg.intervals import MINUTE_MS
from klagg.kline import NINE_VALUES, differences
from klagg.recordings import open_klines
from klagg.wire.entries import REQUEST_TRADES
from tests.endtoend.kit import FLOOR, PROVEN_S, Stack, is_whole, migrated, stack, table
from tests.endtoend.test_losses import Run, faults
from tests.kit import eventually

pytestmark = [pytest.mark.endtoend, pytest.mark.servers, pytest.mark.timeout(900)]

PROCESSES = ("clock", "repair", "aggregator", "writer", "ingest")


def uncounted_in(run: Run) -> int:
    """Fills in the feed that count for nothing."""
    entries = [each.fields for each in run.streams.range("feed:{0}") if each.fields.get(b"counts")]
    return sum(fields[b"counts"].split(b",").count(b"0") for fields in entries)


def asked_for_trades(run: Run) -> int:
    return sum(each.fields[b"kind"] == REQUEST_TRADES.encode() for each in run.streams.range("requests:{0}"))


def proven(running: Stack, database: Any, minutes: list[int]) -> dict[int, dict[str, Any]]:
    running.alive()
    found = {key[1]: row for key, row in table(database).items()}
    return found if all(each in found and is_whole(found[each]) for each in minutes) else {}


@pytest.mark.parametrize("day", ["2023-04-04_05", "2024-07-18_19"])
def test_recorded_fills_with_a_piece_cut_out_leave_the_exchanges_own_rows(
    realdata: Path, tmp_path: Path, redis_url: str, database_url: str, day: str
) -> None:
    official = {row.open_time_ms: row for row in open_klines(realdata / f"official_um_klines_1m_btcusdt_{day}.csv")}
    whole = sorted(official)[:7]
    recording = str(realdata / f"um_trade_btcusdt_{day}.txt.gz")
    market = ["--trades", recording, "--speed", "40", *faults(tmp_path, seed=None, at_s=170, for_s=7, share=1)]
    database = migrated(database_url)
    with stack(tmp_path, redis_url, database_url, market, exchange={"source": "trade"}) as running:
        running.start(*PROCESSES)
        run = Run(running, database)
        found = eventually(lambda: proven(running, database, whole), 120, 0.2)
        assert asked_for_trades(run) == 0, "fills cannot be asked for by their ids"
        assert set(running.stop(*reversed(PROCESSES)).values()) == {0}
    database.close()
    sources = [found[each]["source"] for each in whole]
    assert 5 <= sources.count("own") < len(whole), sources
    for open_time in whole:
        ours = {name: found[open_time][name] for name in NINE_VALUES}
        assert not differences(ours, values_of_official(official[open_time])), open_time


def test_a_market_with_every_kind_of_fill(tmp_path: Path, redis_url: str, database_url: str) -> None:
    """MARKET and RPI count, INSURANCE_FUND, ADL and NA do not: every bar equals the exchange's."""
    symbols, rate, speed, at_s = 20, 200, 6, 150
    market = ["--symbols", str(symbols), "--rate", str(rate), "--speed", str(speed), "--wait", *FLOOR]
    database = migrated(database_url)
    with stack(
        tmp_path,
        redis_url,
        database_url,
        [*market, *faults(tmp_path, at_s=at_s, for_s=5, share=1)],
        exchange={"source": "trade"},
        aggregator={"intervals": ("1m",)},
    ) as running:
        began = running.ask("/fapi/v1/time")["serverTime"]
        running.start(*PROCESSES)
        run = Run(running, database)
        first = (began + 90_000) // MINUTE_MS * MINUTE_MS
        minutes = [first, first + MINUTE_MS, first + 2 * MINUTE_MS]
        eventually(lambda: run.now_ms() >= minutes[-1] + MINUTE_MS, 120, 0.5)
        names = run.gaps()
        often = names & run.busy(first)
        assert len(often) > 0.6 * symbols
        eventually(lambda: run.whole(often, minutes), 90, 0.5)
        eventually(lambda: run.whole(names, minutes), PROVEN_S, 0.5)
        rows = run.rows()
        for name in names:
            for minute in minutes:
                ours = {each: rows[name, minute][each] for each in NINE_VALUES}
                assert ours == run.official(name, minute), (name, minute, rows[name, minute]["source"])
        assert uncounted_in(run) > 0
        assert asked_for_trades(run) == 0
        lost_ms = began + at_s * 1000
        spared = [each for each in minutes if each + MINUTE_MS <= lost_ms - 1_000 or each >= lost_ms + 6_000]
        of_spared = [rows[name, minute]["source"] for name in names for minute in spared]
        assert spared
        kept = len(of_spared) - of_spared.count("exchange")
        assert kept > 0.6 * len(of_spared), "a gap of a quiet symbol may reach into them"
        assert {rows[name, minute]["source"] for name in names for minute in minutes} > {"own"}
        run.end()
    database.close()
