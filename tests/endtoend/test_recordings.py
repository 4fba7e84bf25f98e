"""Recorded trades, played by the simulator at ×40 through every real process, leave Binance's own rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from klagg.cli.comparison import values_of_official
from klagg.kline import NINE_VALUES, differences
from klagg.recordings import open_klines
from tests.endtoend.kit import migrated, stack, table
from tests.kit import eventually

pytestmark = [pytest.mark.endtoend, pytest.mark.servers]


@pytest.mark.parametrize("endpoint", ["combined", "raw"])
@pytest.mark.parametrize("day", ["2023-04-04_05", "2024-07-18_19"])
def test_recorded_trades_leave_the_exchanges_own_rows(
    realdata: Path, tmp_path: Path, redis_url: str, database_url: str, day: str, endpoint: str
) -> None:
    official = {row.open_time_ms: row for row in open_klines(realdata / f"official_um_klines_1m_btcusdt_{day}.csv")}
    whole = sorted(official)[:7]
    recording = str(realdata / f"um_trade_btcusdt_{day}.txt.gz")
    exchange = {"source": "trade", "endpoint": endpoint}
    database = migrated(database_url)
    with stack(
        tmp_path, redis_url, database_url, ["--trades", recording, "--speed", "40"], exchange=exchange
    ) as running:
        running.start("clock", "aggregator", "writer", "ingest")

        def rows() -> dict[int, dict[str, Any]]:
            running.alive()
            found = {key[1]: row for key, row in table(database).items()}
            return found if all(each in found and found[each]["complete"] for each in whole) else {}

        found = eventually(rows, 240, 0.2)
        assert running.stop("ingest", "clock", "aggregator", "writer") == {
            "ingest": 0,
            "clock": 0,
            "aggregator": 0,
            "writer": 0,
        }
    database.close()
    for open_time in whole:
        ours = {name: found[open_time][name] for name in NINE_VALUES}
        assert not differences(ours, values_of_official(official[open_time])), open_time
