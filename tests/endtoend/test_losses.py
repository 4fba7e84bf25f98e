"""Trades that no line got, with the real processes: what is affordable comes back by its ids, the rest from klines."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from klagg.binance.weight_account import ROLE_REPAIR, share_of
from klagg.intervals import MINUTE_MS
from klagg.kline import NINE_VALUES
from klagg.settings import Rest
from klagg.simulator import SyntheticMarket
from klagg.wire.entries import REQUEST_BEHIND, TradeRow, request_of
from klagg.wire.keys import WEIGHTS_KEY
from tests.aggregator.oracle import fold
from tests.endtoend.kit import FLOOR, FLOOR_S, PROVEN_S, Stack, is_whole, migrated, stack, table
from tests.kit import eventually

pytestmark = [pytest.mark.endtoend, pytest.mark.servers, pytest.mark.timeout(600)]

SEED = 7
OFFICIAL = dict(zip(NINE_VALUES, (1, 2, 3, 4, 5, 7, 8, 9, 10), strict=True))
"""Where each of the nine values stands in a row of the exchange's klines."""
LOSS = """
seed = 3

[[fault]]
kind = "lose"
at_s = {at_s}
for_s = {for_s}
share = {share}
"""


class Run:
    """One run: the table while it grows, and the most weight that repair used in a minute."""

    def __init__(self, running: Stack, database: Any) -> None:
        self.running, self.database = running, database
        self.streams = running.streams()
        self.weight_most = 0

    def now_ms(self) -> int:
        self.running.alive()
        account = self.streams.hash_of(WEIGHTS_KEY)
        self.weight_most = max(
            [self.weight_most, *(int(used) for name, used in account.items() if name.endswith(b":repair"))]
        )
        return int(self.running.ask("/fapi/v1/time")["serverTime"])

    def rows(self) -> dict[tuple[str, int], dict[str, Any]]:
        return table(self.database)

    def whole(self, symbols: Collection[str], minutes: Sequence[int]) -> bool:
        """That every bar of these is in the table and proven; AssertionError names those that are not."""
        self.now_ms()
        rows = self.rows()
        bars = [(name, minute) for name in symbols for minute in minutes]
        lacking = [bar for bar in bars if not ((row := rows.get(bar)) and is_whole(row))]
        assert not lacking, f"{len(lacking)} of {len(bars)} bars are not proven: {lacking[:5]}"
        return True

    def busy(self, minute: int) -> set[str]:
        """Symbols that trade often, and so prove their bars at once."""
        return {symbol for (symbol, at), row in self.rows().items() if at == minute and row["trades"] > 20}

    def gaps(self) -> set[str]:
        """The symbols in which something was missing."""
        opened = [each for each in self.streams.range("events:{0}") if each.fields[b"kind"] == b"gap_opened"]
        return {name for each in opened for name in each.fields[b"symbol"].decode().split(",")}

    def requested_behind(self) -> set[str]:
        """The symbols of which a witness knew a later trade than klagg had: none of these opens a gap if it is repaired
        before the symbol trades again."""
        requests = map(request_of, (each.fields for each in self.streams.range("requests:{0}")))
        return {each.symbol for each in requests if each.kind == REQUEST_BEHIND}

    def official(self, symbol: str, minute: int) -> dict[str, Decimal]:
        (row,) = self.running.ask(
            f"/fapi/v1/klines?symbol={quote(symbol)}&interval=1m&startTime={minute}&endTime={minute}&limit=1"
        )
        return {name: Decimal(str(row[at])) for name, at in OFFICIAL.items()}

    def end(self) -> None:
        assert set(self.running.stop("ingest", "repair", "clock", "aggregator", "writer").values()) == {0}
        said = self.running.children["repair"].text()
        assert "HTTP 429" not in said, said[-2000:]
        assert 0 < self.weight_most <= share_of(ROLE_REPAIR, Rest()).own
        self.streams.close()


def own_values(
    symbols: int, rate: int, minutes: Sequence[int], *, floor_s: float | None = FLOOR_S, known_minutes: int = 2
) -> dict[tuple[str, int], tuple[Any, ...]]:
    """The nine values of these minutes, recomputed from the market's trades by plain Python. In the `known_minutes`
    before them every symbol has traded."""
    source = SyntheticMarket(symbols, rate, SEED, floor_s=floor_s)
    trades = [
        TradeRow(each.symbol, each.id, each.price, each.qty, each.first, each.last, each.time_ms, each.maker)
        for each in source.aggregates(minutes[0] - known_minutes * MINUTE_MS, minutes[-1] + MINUTE_MS + 1000)
    ]
    return {
        (symbol, opened): values[:9]
        for (symbol, _, opened), values in fold(trades, ("1m",), minutes[-1] + 2 * MINUTE_MS).items()
    }


def compare(run: Run, symbols: Collection[str], minutes: Sequence[int], expected: dict[Any, Any]) -> dict[str, int]:
    """Every bar against the trades, or, where klines healed it, against the exchange's own; how many of each source."""
    rows, sources = run.rows(), dict.fromkeys(("own", "mixed", "exchange"), 0)
    for name in symbols:
        for minute in minutes:
            row = rows[name, minute]
            sources[row["source"]] += 1
            values = tuple(row[each] for each in NINE_VALUES)
            if row["source"] == "own":
                assert values == expected[name, minute], (name, minute)
            else:
                official = run.official(name, minute)
                assert {each: Decimal(row[each]) for each in NINE_VALUES} == official, (name, minute)
    return sources


def faults(folder: Path, seed: int | None = SEED, **values: float) -> list[str]:
    """Arguments of `klagg simulate`: a script of one loss, and the market's seed, if it has one."""
    path = folder / "faults.toml"
    path.write_text(LOSS.format(**values), encoding="utf-8")
    return ["--faults", str(path), *([] if seed is None else ["--seed", str(seed)])]


def test_five_seconds_of_everything_heal_from_klines_within_three_minutes(
    tmp_path: Path, redis_url: str, database_url: str
) -> None:
    """At ×4, with a quarter of the weight a minute of exchange time: the exchange counts its limit in real minutes."""
    symbols, rate, speed, at_s = 100, 800, 4, 150
    market = ["--symbols", str(symbols), "--rate", str(rate), "--speed", str(speed), "--wait", *FLOOR]
    database = migrated(database_url)
    with stack(
        tmp_path,
        redis_url,
        database_url,
        [*market, *faults(tmp_path, at_s=at_s, for_s=5, share=1)],
        aggregator={"intervals": ("1m", "5m"), "ask_weight_per_minute": 1080 // speed},
    ) as running:
        began = running.ask("/fapi/v1/time")["serverTime"]
        running.start("clock", "repair", "aggregator", "writer", "ingest")
        run = Run(running, database)
        lost_ms = began + at_s * 1000
        eventually(lambda: run.now_ms() >= lost_ms + 6_000, at_s / speed + 60, 0.2)
        # The script counts from the exchange's start, which was a moment before it was asked.
        minutes = sorted({each // MINUTE_MS * MINUTE_MS for each in (lost_ms - 20_000, lost_ms, lost_ms + 5_000)})
        # Some symbols trade so seldom that they have no trade in five seconds.
        names = run.gaps()
        often = names & run.busy(minutes[0] - MINUTE_MS)
        assert len(often) > 0.6 * symbols, "the loss took all that trade often"
        eventually(lambda: run.whole(often, minutes), 180 / speed + 30, 0.5)
        healed_s = (run.now_ms() - lost_ms) / 1000
        eventually(lambda: run.whole(names, minutes), PROVEN_S, 0.5)
        sources = compare(run, names, minutes, own_values(symbols, rate, minutes))
        run.end()
    database.close()
    print(f"healed {healed_s:.0f} s of exchange time after the loss; {sources}; weight {run.weight_most}")
    assert healed_s <= 185
    assert sources["mixed"] + sources["exchange"] > 0.4 * symbols, "most of it was beyond the budget"
    assert sources["own"] > 0


def test_a_percent_of_loss_on_one_line_leaves_nothing_missing(
    tmp_path: Path, redis_url: str, database_url: str
) -> None:
    """At ×2, with half the weight a minute of exchange time, which leaves the limit what it is: 500 trades/s of 20
    symbols, of which one in a hundred never comes."""
    symbols, rate, speed, at_s, for_s = 20, 500, 2, 15, 110
    market = ["--symbols", str(symbols), "--rate", str(rate), "--speed", str(speed), "--wait", *FLOOR]
    database = migrated(database_url)
    with stack(
        tmp_path,
        redis_url,
        database_url,
        [*market, *faults(tmp_path, at_s=at_s, for_s=for_s, share=0.01)],
        aggregator={"intervals": ("1m",), "ask_weight_per_minute": 1080 // speed},
    ) as running:
        began = running.ask("/fapi/v1/time")["serverTime"]
        running.start("clock", "repair", "aggregator", "writer", "ingest")
        run = Run(running, database)
        first = (began + 25_000) // MINUTE_MS * MINUTE_MS + MINUTE_MS
        minutes = [each for each in (first, first + MINUTE_MS) if each < began + (at_s + for_s) * 1000]
        eventually(lambda: run.now_ms() >= began + (at_s + for_s) * 1000, at_s + for_s + 60, 0.2)
        names = run.gaps()
        often = names & run.busy(first - MINUTE_MS)
        assert len(often) > 0.6 * symbols
        eventually(lambda: run.whole(often, minutes), 120, 0.5)
        healed_s = (run.now_ms() - minutes[-1] - MINUTE_MS) / 1000
        eventually(lambda: run.whole(names, minutes), PROVEN_S, 0.5)
        sources = compare(run, names, minutes, own_values(symbols, rate, minutes))
        repaired = sum(
            int(each.fields[b"n"]) for each in run.streams.range("feed:{0}") if each.fields.get(b"line") == b"rest"
        )
        run.end()
    database.close()
    print(f"{repaired} trades came by REST, the last bar {healed_s:.0f} s after its end; {sources}; {run.weight_most}")
    assert repaired > 0.005 * rate * for_s
    assert sources["own"] > 0.5 * len(names) * len(minutes), "most of it is affordable by trades"
