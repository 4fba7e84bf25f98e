"""Tickers as witnesses, with the real processes: bars of quiet symbols are proven soon, and a ticker that lies is
caught."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from klagg.intervals import MINUTE_MS
from klagg.kline import NINE_VALUES
from klagg.simulator import SyntheticMarket
from klagg.wire.entries import BY_STREAM, BY_TICKER
from tests.endtoend.kit import FLOOR, PROVEN_S, is_whole, migrated, stack
from tests.endtoend.test_losses import SEED, Run, compare, own_values
from tests.kit import eventually

pytestmark = [pytest.mark.endtoend, pytest.mark.servers, pytest.mark.timeout(600)]

PROVEN_MS, TOLD_MS = 75_000, 150_000
AMENDED = """
SELECT DISTINCT symbol FROM amendments WHERE "interval" = '1m' AND symbol = ANY(%(symbols)s)
"""


def sources_of(run: Run) -> set[str]:
    """Where the witnesses in the feed are from."""
    return {
        each.fields[b"source"].decode()
        for each in run.streams.range("feed:{0}")
        if each.fields.get(b"kind") == b"witness"
    }


def test_bars_of_quiet_symbols_are_proven_75_s_after_their_close(
    tmp_path: Path, redis_url: str, database_url: str
) -> None:
    """At ×1, because the clock asks for tickers at most every 50 s of real time. For 45 s nothing comes of the quiet
    symbols: their last trades before a silence are noticed by the tickers alone. Bars are judged from a symbol's first
    trade on that klagg got, because it knows no fill before it."""
    symbols, rate, at_s, for_s = 500, 80, 75, 45
    names = quiet_ones(symbols, rate)
    script = tmp_path / "faults.toml"
    script.write_text(
        f'[[fault]]\nkind = "lose"\nat_s = {at_s}\nfor_s = {for_s}\nsymbols = {names}\n'.replace("'", '"')
    )
    shape = ["--symbols", str(symbols), "--rate", str(rate), "--seed", str(SEED), "--wait", "--faults", str(script)]
    database = migrated(database_url)
    with stack(tmp_path, redis_url, database_url, shape, aggregator={"intervals": ("1m",)}) as running:
        began = running.ask("/fapi/v1/time")["serverTime"]
        running.start("clock", "repair", "aggregator", "writer", "ingest")
        run = Run(running, database)
        first = began // MINUTE_MS * MINUTE_MS + MINUTE_MS
        minutes = [first, first + MINUTE_MS]
        expected = own_values(symbols, rate, minutes, floor_s=None, known_minutes=60)
        lost = last_ones_lost(symbols, rate, began + at_s * 1000, began + (at_s + for_s) * 1000)
        until_ms = max(minutes[-1] + MINUTE_MS + PROVEN_MS, began + (at_s + for_s) * 1000 + TOLD_MS)
        seen: dict[tuple[str, int], int] = {}

        def passed_all() -> bool:
            """Note when a bar is proven, and right, for the first time."""
            now_ms = run.now_ms()
            for key, row in run.rows().items():
                if is_whole(row) and (row["source"] != "own" or values(row) == expected.get(key)):
                    seen.setdefault(key, now_ms)
            return bool(now_ms >= until_ms)

        eventually(passed_all, 400, 0.5)
        known = first_trades(run)
        lost = {key: at_ms for key, at_ms in lost.items() if key[0] in names and known.get(key[0], 2**62) < at_ms}
        rows = {key for key in run.rows() if key[1] in minutes and known.get(key[0], 2**62) < key[1] + MINUTE_MS}
        late = {key for key in rows if seen.get(key, 2**62) > key[1] + MINUTE_MS + PROVEN_MS}
        untold = {key for key, at_ms in lost.items() if seen.get(key, 2**62) > at_ms + TOLD_MS}
        assert {BY_STREAM, BY_TICKER} <= sources_of(run)
        asked = run.requested_behind() & {name for name, _ in lost}
        run.end()
    database.close()
    flat = sum(expected[key][6] == 0 for key in rows if key in expected)
    print(f"{1 - len(late) / len(rows):.4%} of {len(rows)} bars proven after 75 s, {flat} of them flat")
    print(f"{len(lost)} last trades lost of {len(names)} quiet symbols; tickers knew more of {sorted(asked)}")
    assert len(late) <= 0.001 * len(rows), late
    assert not untold
    assert lost, "no symbol fell silent within the loss"
    assert asked, "no witness knew more"


def quiet_ones(symbols: int, rate: int) -> list[str]:
    """The symbols of the market that trade less than once in two minutes."""
    source, traded = SyntheticMarket(symbols, rate, SEED), Counter[str]()
    for minute in range(30):
        begun_ms = 1_767_268_800_000 + minute * MINUTE_MS
        traded.update(each.symbol for each in source.aggregates(begun_ms, begun_ms + MINUTE_MS))
    return sorted(each.symbol for each in source.listings(2**62) if traded[each.symbol] < 15)


def first_trades(run: Run) -> dict[str, int]:
    """The time of the first trade of each symbol that came over a line (exchange ms)."""
    first: dict[str, int] = {}
    for entry in run.streams.range("feed:{0}"):
        if entry.fields.get(b"kind") == b"trades" and entry.fields[b"line"] != b"rest":
            names, times = (entry.fields[each].decode().split(",") for each in (b"symbol", b"time"))
            for name, time_ms in zip(names, map(int, times), strict=True):
                first[name] = min(time_ms, first.get(name, time_ms))
    return first


def values(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[each] for each in NINE_VALUES)


def last_ones_lost(symbols: int, rate: int, first_ms: int, last_ms: int) -> dict[tuple[str, int], int]:
    """The time of each symbol's last trade within these times (exchange ms), by symbol and minute, if the symbol does
    not trade again for a minute."""
    source = SyntheticMarket(symbols, rate, SEED)
    last = {each.symbol: each.time_ms for each in source.aggregates(first_ms - MINUTE_MS, last_ms + MINUTE_MS)}
    return {
        (name, at_ms // MINUTE_MS * MINUTE_MS): at_ms for name, at_ms in last.items() if first_ms <= at_ms <= last_ms
    }


def test_a_ticker_that_lies_is_caught_and_the_bars_are_amended(
    tmp_path: Path, redis_url: str, database_url: str
) -> None:
    """At ×5. For 150 s no line gets the trades of three symbols, while their tickers say with the time of now that
    nothing has come. Other tickers are wrong or late meanwhile."""
    symbols, rate, speed, at_s, for_s = 20, 40, 5, 90, 150
    names = sorted(each.symbol for each in SyntheticMarket(symbols, rate, SEED).listings(2**62))
    dead, off, late = names[:3], names[3:6], names[6:9]
    when = f"at_s = {at_s}\nfor_s = {for_s}\n"
    faults = [
        f'kind = "dead_symbol"\n{when}symbols = {dead}',
        f'kind = "frozen_ticker"\n{when}symbols = {dead}',
        f'kind = "wrong_ticker"\n{when}symbols = {off}\nids = 3',
        f'kind = "late_ticker"\n{when}symbols = {late}\nlate_ms = 20000',
    ]
    script = tmp_path / "faults.toml"
    script.write_text("".join(f"[[fault]]\n{each}\n" for each in faults).replace("'", '"'), encoding="utf-8")
    shape = ["--symbols", str(symbols), "--rate", str(rate), "--seed", str(SEED), "--speed", str(speed), *FLOOR]
    market = [*shape, "--wait", "--faults", str(script)]
    database = migrated(database_url)
    with stack(
        tmp_path,
        redis_url,
        database_url,
        market,
        aggregator={"intervals": ("1m",), "ask_weight_per_minute": 1080 // speed},
    ) as running:
        began = running.ask("/fapi/v1/time")["serverTime"]
        running.start("clock", "repair", "aggregator", "writer", "ingest")
        run = Run(running, database)
        first = began // MINUTE_MS * MINUTE_MS + MINUTE_MS
        minutes = [first + number * MINUTE_MS for number in range((at_s + for_s) // 60)]
        eventually(lambda: run.now_ms() >= minutes[-1] + 2 * MINUTE_MS, (at_s + for_s + 180) / speed + 60, 0.2)
        eventually(lambda: run.whole(names, minutes), PROVEN_S, 0.5)
        sources = compare(run, names, minutes, own_values(symbols, rate, minutes))
        found = [each.fields for each in run.streams.range("findings:{0}")]
        caught = {each[b"symbol"].decode() for each in found if each[b"kind"] == b"WITNESS_WRONG"}
        with database.transaction():
            amended = {row["symbol"] for row in database.query(AMENDED, {"symbols": dead})}
        run.end()
    database.close()
    print(f"caught: {sorted(caught)}; amended: {sorted(amended)}; {sources}")
    assert caught
    assert caught <= set(dead)
    assert caught <= amended
