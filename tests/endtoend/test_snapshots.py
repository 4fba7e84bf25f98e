"""Bars in progress are in the table while they grow, and finals take their place, through the real processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from klagg.drivers.postgres import Database
from klagg.drivers.redis_streams import Streams
from klagg.kline import Kline
from klagg.wire.fields import texts_of
from klagg.wire.keys import GROUP_HISTORY, Keys
from tests.endtoend.kit import Stack, is_whole, migrated, stack, table
from tests.kit import eventually

pytestmark = [pytest.mark.endtoend, pytest.mark.servers]

KEYS = Keys(0)
INTERVALS = ("5s", "1m", "1h")
MARKET = ["--symbols", "10", "--rate", "200", "--speed", "5"]


def rows_of(database: Database, running: Stack) -> dict[tuple[str, str, int], dict[str, Any]]:
    running.alive()
    return {(symbol, name, at): row for name in INTERVALS for (symbol, at), row in table(database, name).items()}


def published(streams: Streams) -> dict[tuple[str, str, int], Kline]:
    """The highest version of every kline of the stream."""
    best: dict[tuple[str, str, int], Kline] = {}
    for entry in streams.range(KEYS.klines):
        kline = Kline.from_fields(texts_of(entry.fields))
        if kline.key not in best or kline.version > best[kline.key].version:
            best[kline.key] = kline
    return best


def test_bars_grow_in_the_table_and_finals_take_their_place(tmp_path: Path, redis_url: str, database_url: str) -> None:
    database = migrated(database_url)
    seen: dict[tuple[str, str, int], list[int]] = {}
    sections: dict[str, dict[str, Any]] = {"aggregator": {"intervals": INTERVALS}, "clock": {"snapshot_s": 1}}
    with stack(tmp_path, redis_url, database_url, MARKET, **sections) as running:
        running.start("aggregator", "writer", "snapshot", "clock", "ingest")
        streams = running.streams()

        def grown_and_closed() -> bool:
            """Some hour is seen to grow, and some minute that was seen in progress is final."""
            rows = rows_of(database, running)
            for key, row in rows.items():
                if row["revision"] == 0:
                    assert not is_whole(row)
                    trades = seen.setdefault(key, [])
                    assert not trades or row["trades"] >= trades[-1]
                    if not trades or row["trades"] > trades[-1]:
                        trades.append(row["trades"])
            hours = [key for key, trades in seen.items() if key[1] == "1h" and len(trades) > 2]
            minutes = [key for key in seen if key[1] == "1m" and rows[key]["revision"] > 0]
            return len(hours) >= 5 and len(minutes) >= 10

        eventually(grown_and_closed, 60, 0.2)
        assert {key[1] for key in seen} == set(INTERVALS)
        codes = running.stop("ingest", "clock", "aggregator", "snapshot", "writer")
        assert set(codes.values()) == {0}, codes
        finals = published(streams)
        assert streams.group_lag(KEYS.events, GROUP_HISTORY) == streams.pending_count(KEYS.events, GROUP_HISTORY) == 0
        streams.close()
    assert len(finals) > 100
    rows = {(symbol, name, at): row for name in INTERVALS for (symbol, at), row in table(database, name).items()}
    for key, kline in finals.items():
        row = rows[key]
        assert (row["epoch"], row["revision"], int(row["complete"]), int(row["official"])) == kline.version, key
        assert (str(row["close"]), row["trades"]) == (kline.close, kline.trades), key
    growing = {key: row for key, row in rows.items() if key not in finals}
    assert {row["revision"] for row in growing.values()} == {0}
    assert {key[1] for key in growing} >= {"1h"}
    (symbols,) = database.query(
        "SELECT count(*) AS n FROM symbols WHERE price_scale IS NOT NULL AND status = 'TRADING'"
    )
    assert symbols["n"] == 10
    database.close()
