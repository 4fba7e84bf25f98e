"""An hour of a market most of whose symbols hardly trade: how soon its bars are proven, with witnesses and without."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator

from aggregator.core import Core
from klagg.intervals import MINUTE_MS
from klagg.kline import Kline
from klagg.wire.entries import AGG_IDS, BY_ANSWER, BY_TICKER, TRADE_IDS, TradeRow, Witness, witness_entries
from klagg.wire.fields import RawFields
from tests.aggregator.kit import T0, feed, klines, new_core, raw, tick, trade, watermark

SYMBOLS, QUIET, MINUTES = 300, 180, 60
TICK_MS = 1_000
WITNESS_AFTER_MS, PROVEN_MS, TOLD_MS = 5_000, 75_000, 150_000
LOSS = 0.02
OUTAGES = tuple(T0 + minute * MINUTE_MS + 20_000 for minute in (12, 29, 46))
OUTAGE_MS = 25_000
"""When, and for how long, nothing comes over any line."""

Key = tuple[str, str, int]


def market(rng: random.Random) -> dict[str, list[TradeRow]]:
    """Trades by symbol, ids from 1 on; a quiet symbol trades less than once in five minutes."""
    found = {}
    for number in range(SYMBOLS):
        name = f"S{number}USDT"
        mean_ms = rng.uniform(330_000, 3_000_000) if number < QUIET else rng.uniform(2_000, 60_000)
        rows: list[TradeRow] = []
        at_ms = T0 + 1_000 + rng.randrange(2_000)
        while at_ms < T0 + MINUTES * MINUTE_MS:
            rows.append(trade(len(rows) + 1, at_ms, symbol=name, first=3 * len(rows), last=3 * len(rows) + 2))
            at_ms += 1 + int(rng.expovariate(1 / mean_ms))
        found[name] = rows
    return found


class Exchange:
    """The lines, REST and repair around a core: two lines that lose, an answer a second after its request."""

    def __init__(self, rows: dict[str, list[TradeRow]], rng: random.Random) -> None:
        self.rows, self._rng = rows, rng
        self._order = sorted((row for every in rows.values() for row in every), key=lambda row: row.time)
        self._at = 0
        self._asked: list[dict[str, str]] = []
        self.lost: list[TradeRow] = []

    def lines(self, core: Core, now_ms: int) -> None:
        """What the two lines bring."""
        brought = []
        while self._at < len(self._order) and self._order[self._at].time <= now_ms - 200:
            row = self._order[self._at]
            self._at += 1
            out = any(0 <= row.time - each < OUTAGE_MS for each in OUTAGES)
            copies = 0 if out and row.id > 1 else sum(self._rng.random() >= LOSS for _ in range(2)) or (row.id == 1)
            brought += [row] * copies
            if not copies:
                self.lost.append(row)
        feed(core, brought)
        watermark(core, now_ms, *self.rows)

    def witnesses(self, now_ms: int) -> Iterator[RawFields]:
        """What the tickers of all symbols say."""
        last = [(name, [row.last for row in rows if row.time <= now_ms]) for name, rows in self.rows.items()]
        found = [Witness(name, ids[-1], now_ms) for name, ids in last if ids]
        return map(raw, witness_entries(found, ids=TRADE_IDS, source=BY_TICKER))

    def answer(self, core: Core, now_ms: int) -> None:
        """Answers to the requests of the tick before."""
        for each in self._asked:
            if each["kind"] == "klines":
                continue
            first, last = int(each["from_id"]), int(each["to_id"])
            rows = [row for row in self.rows[each["symbol"]] if first <= row.id <= last and row.time <= now_ms]
            feed(core, rows)
            if each["kind"] == "behind":
                end = Witness(each["symbol"], rows[-1].id if rows else first - 1, now_ms)
                for entry in witness_entries([end], ids=AGG_IDS, source=BY_ANSWER):
                    core.apply("1-1", raw(entry))
        self._asked = []

    def ask(self, requests: list[dict[str, str]]) -> None:
        self._asked += requests


def play(seed: int, *, witnesses: bool) -> tuple[dict[Key, list[tuple[int, Kline]]], Exchange]:
    """Every version of every bar with the time of its tick, and the exchange."""
    rng = random.Random(seed)
    core, exchange = new_core("1m", "5m"), Exchange(market(rng), rng)
    said: dict[Key, list[tuple[int, Kline]]] = defaultdict(list)
    for now_ms in range(T0 + TICK_MS, T0 + (MINUTES + 3) * MINUTE_MS, TICK_MS):
        exchange.lines(core, now_ms)
        exchange.answer(core, now_ms)
        if witnesses and now_ms % MINUTE_MS == WITNESS_AFTER_MS:
            for entry in exchange.witnesses(now_ms):
                core.apply("1-1", entry)
        outputs = tick(core, now_ms)
        assert not outputs.findings
        exchange.ask(outputs.requests)
        for kline in klines(outputs):
            said[kline.key].append((now_ms, kline))
    return said, exchange


def share_proven(said: dict[Key, list[tuple[int, Kline]]], exchange: Exchange) -> float:
    """The share of bars that were complete and right 75 s after their close."""
    counts = {
        (name, minutes, open_ms): sum(open_ms <= row.time < open_ms + minutes * MINUTE_MS for row in rows)
        for name, rows in exchange.rows.items()
        for minutes in (1, 5)
        for open_ms in range(T0, T0 + MINUTES * MINUTE_MS, minutes * MINUTE_MS)
    }
    proven = 0
    for (name, minutes, open_ms), count in counts.items():
        until_ms = open_ms + minutes * MINUTE_MS + PROVEN_MS
        versions = [kline for at_ms, kline in said[name, f"{minutes}m", open_ms] if at_ms <= until_ms]
        proven += bool(versions) and versions[-1].complete == 1 and versions[-1].trades == 3 * count
        assert all(each.trades == 3 * count for each in versions if each.complete), "complete and wrong"
    return proven / len(counts)


def test_bars_of_quiet_symbols_are_proven_75_s_after_their_close() -> None:
    before = share_proven(*play(7, witnesses=False))
    said, exchange = play(7, witnesses=True)
    after = share_proven(said, exchange)
    print(f"proven 75 s after their close: {before:.4%} without witnesses, {after:.4%} with them")
    assert after >= 0.999 > before
    assert len(exchange.lost) > 100
    for row in exchange.lost:
        versions = said[row.symbol, "1m", row.time // MINUTE_MS * MINUTE_MS]
        told = [kline for at_ms, kline in versions if at_ms <= row.time + TOLD_MS]
        inside = [each for each in exchange.rows[row.symbol] if each.time // MINUTE_MS == row.time // MINUTE_MS]
        assert told[-1].trades == 3 * len(inside), row
