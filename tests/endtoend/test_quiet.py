"""A market with quiet symbols, at ×20: what they trade is right and proven, however long their next trade takes.

The other markets of these tests have a floor, so that nothing has to wait for a quiet symbol.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from klagg.drivers.postgres import Database
from klagg.intervals import MINUTE_MS
from tests.endtoend.kit import FLOOR, PROVEN_S, SILENT_S, is_whole, migrated, stack
from tests.endtoend.test_losses import Run, compare, faults, own_values
from tests.kit import eventually

pytestmark = [pytest.mark.endtoend, pytest.mark.servers, pytest.mark.timeout(600)]


def test_bars_of_quiet_symbols_wait_for_their_proof_and_get_it(
    tmp_path: Path, redis_url: str, database_url: str
) -> None:
    """Some have minutes without a trade, which are flat and not proven until they trade again or a witness comes. What
    nobody got of them is missed only then."""
    symbols, rate, speed, at_s = 60, 45, 20, 300
    market = ["--symbols", str(symbols), "--rate", str(rate), "--speed", str(speed), "--wait"]
    database = migrated(database_url)
    with stack(
        tmp_path,
        redis_url,
        database_url,
        [*market, *faults(tmp_path, at_s=at_s, for_s=60, share=1)],
        aggregator={"intervals": ("1m",), "ask_weight_per_minute": 1080 // speed},
    ) as running:
        began = running.ask("/fapi/v1/time")["serverTime"]
        names = [each["symbol"] for each in running.ask("/fapi/v1/exchangeInfo")["symbols"]]
        running.start("clock", "repair", "aggregator", "writer", "ingest")
        run = Run(running, database)
        first = began // MINUTE_MS * MINUTE_MS + 2 * MINUTE_MS
        minutes = [first + number * MINUTE_MS for number in range((at_s + 60) // 60)]

        def waiting_and_flat() -> set[tuple[str, int]]:
            run.now_ms()
            bars = {key for key, row in run.rows().items() if row["trades"] == 0 and not is_whole(row)}
            return {bar for bar in bars if bar[1] in minutes}

        waited = set(eventually(waiting_and_flat, 60, 0.1))

        def passed_all() -> bool:
            waited.update(waiting_and_flat())
            passed: bool = run.now_ms() >= began + (at_s + 120) * 1000
            return passed

        eventually(passed_all, at_s / speed + 60, 0.2)
        eventually(lambda: run.whole(names, minutes), SILENT_S / speed + PROVEN_S, 0.5)
        expected = own_values(symbols, rate, minutes, floor_s=None, known_minutes=60)
        sources = compare(run, names, minutes, expected)
        rows = run.rows()
        flat = [bar for bar in expected if bar[1] in minutes and rows[bar]["trades"] == 0]
        assert set(flat) & waited, "what waited stayed flat, and has its proof"
        quiet = (run.gaps() | run.requested_behind()) - run.busy(minutes[0])
        assert quiet, "no quiet symbol lost a trade"
        run.end()
    database.close()
    print(f"{len(flat)} flat bars, {len(quiet)} quiet symbols with losses; {sources}; weight {run.weight_most}")
    assert sources["own"] > 0.4 * symbols * len(minutes)
    assert sources["mixed"] + sources["exchange"] > 0


def test_a_quiet_symbol_misses_no_bar_that_never_was(tmp_path: Path, redis_url: str, database_url: str) -> None:
    """20 symbols at x40, of which 8 are silent for an hour: the scoreboard calls no bar missing, and none after a
    restart of everything that writes."""
    speed, silent_s = 40, 3600
    script = tmp_path / "silent.toml"
    market = ["--symbols", "20", "--rate", "40", "--speed", str(speed), "--wait", "--faults", str(script), *FLOOR]
    names = [f"{each}USDT" for each in ("BTC", "ETH", "SOL", "XRP", "DOGE", "BNB", "ADA", "AVAX")]
    database = migrated(database_url)
    script.write_text(f'[[fault]]\nkind = "dead_symbol"\nat_s = 0\nfor_s = {silent_s}\nsymbols = {names}\n')
    with stack(
        tmp_path,
        redis_url,
        database_url,
        market,
        clock={"days_s": 3},
        aggregator={"ask_weight_per_minute": 1080 // speed},
    ) as running:
        began = running.ask("/fapi/v1/time")["serverTime"]
        writing = ("clock", "repair", "aggregator", "writer", "snapshot", "ingest")
        running.start(*writing)

        def passed(seconds: int) -> bool:
            return bool(running.ask("/fapi/v1/time")["serverTime"] >= began + seconds * 1000)

        running.wait_until(lambda: passed(silent_s // 2), silent_s / speed + 60, 0.5)
        running.wait_until(lambda: _missing(database) == (20, 0), PROVEN_S, 0.5)
        running.wait_until(lambda: passed(silent_s), silent_s / speed + 60, 0.5)
        running.stop(*writing)
        running.start(*writing)
        later = running.ask("/fapi/v1/time")["serverTime"]
        running.wait_until(lambda: passed((later - began) // 1000 + 600), 120, 0.5)
        running.wait_until(lambda: _missing(database) == (20, 0), PROVEN_S, 0.5)
    database.close()


def _missing(database: Database) -> tuple[int, int]:
    """How many symbols are on the scoreboard, and how many of their bars are missing."""
    with database.transaction():
        (row,) = database.query(
            "SELECT count(DISTINCT symbol) AS symbols, coalesce(sum(missing), 0)::bigint AS missing FROM scoreboard"
        )
    return row["symbols"], row["missing"]
