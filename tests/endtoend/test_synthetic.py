"""600 symbols at 5,000 trades a real second: the table equals a pure-Python recomputation of the same trades.

At ×2, so that a minute of the exchange takes half of one. The whole market at ×1 is `make soak`'s.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from klagg.intervals import interval
from klagg.simulator import SyntheticMarket
from klagg.wire.entries import TradeRow
from tests.aggregator.oracle import fold
from tests.endtoend.kit import Stack, migrated, stack, table
from tests.kit import eventually

pytestmark = [pytest.mark.endtoend, pytest.mark.servers]

SYMBOLS, RATE, SEED, SPEED = 600, 2500, 7, 2
LOAD_MS = 60_000
INTERVALS = ("5s", "15s", "1m", "5m")
COLUMNS = (
    "open",
    "high",
    "low",
    "close",
    "volume",
    "quote_volume",
    "trades",
    "taker_buy_volume",
    "taker_buy_quote_volume",
    "first_agg_id",
    "last_agg_id",
    "first_trade_id",
    "last_trade_id",
)


def exchange_ms(running: Stack) -> int:
    running.alive()
    return int(running.ask("/fapi/v1/time")["serverTime"])


@pytest.mark.timeout(400)
def test_the_table_equals_a_recomputation(tmp_path: Path, redis_url: str, database_url: str) -> None:
    database = migrated(database_url)
    market = ["--symbols", str(SYMBOLS), "--rate", str(RATE), "--seed", str(SEED), "--speed", str(SPEED)]
    with stack(tmp_path, redis_url, database_url, market, aggregator={"intervals": INTERVALS}) as running:
        running.start("clock", "aggregator", "writer", "ingest")
        streams = running.streams()
        running.wait_until(lambda: streams.hash_of("bars:{0}"), 60, 0.1)
        started = exchange_ms(running) + 3_000
        ended = started + LOAD_MS
        eventually(lambda: exchange_ms(running) >= ended, LOAD_MS / 1000 + 60, 0.5)
        # A whole bar behind the end is in the table, so all that came before it has been folded.
        running.wait_until(lambda: any(at >= ended for _, at in table(database, "5s")), 60, 0.5)
        assert set(running.stop("ingest", "clock", "aggregator", "writer").values()) == {0}
        streams.close()
    rows = {name: table(database, name) for name in INTERVALS}
    database.close()

    source = SyntheticMarket(SYMBOLS, RATE, SEED)
    trades = [
        TradeRow(each.symbol, each.id, each.price, each.qty, each.first, each.last, each.time_ms, each.maker)
        for each in source.aggregates(started - 1, ended + 1_000)
        if started <= each.time_ms
    ]
    assert len(trades) > 0.9 * RATE * LOAD_MS / 1000
    expected = fold(trades, INTERVALS, ended)
    seen: dict[str, list[int]] = defaultdict(list)
    for trade in trades:
        seen[trade.symbol].append(trade.time)
    compared = empty = 0
    for (symbol, name, open_time), values in expected.items():
        kind = interval(name)
        # A bar counts when all of it lies behind the symbol's first trade here, and its close before the end.
        if open_time <= seen[symbol][0] or kind.close_time(open_time) >= ended:
            continue
        row = rows[name].get((symbol, open_time))
        assert row is not None, f"{symbol} {name} {open_time} is missing"
        assert tuple(row[column] for column in COLUMNS) == values, (symbol, name, open_time)
        if max(seen[symbol]) > kind.close_time(open_time) and max(seen[symbol]) < ended:
            assert row["complete"], (symbol, name, open_time)
        compared += 1
        empty += values[6] == 0
    assert compared > 5_000
    assert empty > 0
