"""The auditor of the exchange over recordings: it confirms what matches, and explains what does not."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from aggregator.replay import replay
from auditors.classify import EXACT, Comparison
from klagg.cli.comparison import RefusedRows, values_of_official
from klagg.cli.replay import newest_of
from klagg.intervals import MINUTE, MINUTE_MS
from klagg.kline import Values
from klagg.recordings import open_klines, open_trades
from klagg.wire.entries import TradeRow
from klagg.wire.findings import FindingKind
from tests.auditors.exchangekit import World, listing

CAPTURE = "um_ws_combined_2021-07-22_sushi_akro_keep_ctk.txt.gz"
SECOND_MS = 1_626_992_760_000
"""The minute of the capture whose beginning is in it: 2021-07-22 22:26 UTC."""
NAMES = {
    "open": "o",
    "high": "h",
    "low": "l",
    "close": "c",
    "volume": "v",
    "quote_volume": "q",
    "trades": "n",
    "taker_buy_volume": "V",
    "taker_buy_quote_volume": "Q",
}


def events(path: Path) -> Iterator[dict[str, Any]]:
    """The events of a capture, in their order."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        next(lines)
        for line in lines:
            yield json.loads(line.partition(": ")[2])["data"]


def values_of_event(bar: dict[str, Any]) -> Values:
    return {name: bar[key] if name == "trades" else Decimal(bar[key]) for name, key in NAMES.items()}


def test_every_row_that_the_exchange_told_is_confirmed(realdata: Path) -> None:
    """aggTrades and the exchange's own bar beside them: at each kline event our fold of the same fills is equal in all
    nine values. A bar of which we did not see the beginning is a gap of ours, not of the exchange."""
    told = list(events(realdata / CAPTURE))
    trades: dict[str, list[TradeRow]] = {}
    for event in told:
        if event["e"] == "aggTrade":
            trades.setdefault(event["s"], []).append(
                TradeRow(event["s"], event["a"], event["p"], event["q"], event["f"], event["l"], event["T"], event["m"])
            )
    found: Counter[tuple[str, str]] = Counter()
    cut = 0
    for event in told:
        if event["e"] != "kline" or event["k"]["n"] == 0:
            continue
        bar, opening = event["k"], event["k"]["t"]
        seen = [row for row in trades[event["s"]] if row.last <= bar["L"] and row.time >= opening]
        if opening == SECOND_MS and (not seen or seen[-1].last != bar["L"]):
            cut += 1
            continue
        ours = {each.open_time: each for each in replay(seen, "agg", MINUTE) if each.open_time == opening}
        (verdict,) = Comparison(MINUTE, ours, {opening: values_of_event(bar)}).verdicts(opening, opening + 1)
        found["second" if opening == SECOND_MS else "first", verdict.kind] += 1
    assert (found, cut) == ({("first", FindingKind.LOCAL_GAP): FIRST, ("second", EXACT): SECOND}, CUT)


FIRST, SECOND, CUT = 46, 15, 6
"""Kline events of the minute that began before the capture; of the other one, those that end with a whole aggTrade
of the capture, and those that do not."""


@pytest.mark.parametrize("day", ["2023-04-04_05", "2024-07-18_19"])
@pytest.mark.parametrize("fault", [False, True])
def test_recorded_days_go_through_a_lap(realdata: Path, day: str, fault: bool) -> None:
    """Seven whole minutes each, equal to the official rows; what is not whole is a gap; a lost fill is found."""
    recording = open_trades(realdata / f"um_trade_btcusdt_{day}.txt.gz", "BTCUSDT", None)
    ours = {each.open_time: each for each in newest_of([recording], MINUTE, "BTCUSDT", RefusedRows("audit"))}
    rows = open_klines(realdata / f"official_um_klines_1m_btcusdt_{day}.csv", "BTCUSDT", "1m")
    theirs = {row.open_time_ms: values_of_official(row) for row in rows}
    first, last = min(theirs), max(theirs)
    ours = {at: bar for at, bar in ours.items() if first <= at <= last}
    spoiled = first + 3 * MINUTE_MS
    if fault:
        ours[spoiled] = replace(ours[spoiled], trades=ours[spoiled].trades - 1)
    world = World({("BTCUSDT", "1m"): ours}, {("BTCUSDT", "1m"): theirs}, [listing("BTCUSDT", first - 10**9)])
    found = world.lap(last + 10 * MINUTE_MS)
    counts = world.counts
    assert counts["exact"] == 7 - fault
    assert counts["unexplained"] == int(fault)
    assert counts["bars"] == len(theirs)
    assert [each.open_time for each in found if each.kind == "UNEXPLAINED"] == [spoiled] * fault
    assert {each.kind for each in found} <= {"UNEXPLAINED", FindingKind.LOCAL_GAP}
