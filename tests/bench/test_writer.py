"""The bench of the writer, small: that it measures what it says, not how fast this machine is."""

from __future__ import annotations

import json

import pytest

from klagg.bench.klines import INTERVALS, final_bars, rollover_bars
from klagg.bench.writer import AGO_ENTRIES, with_redelivered
from klagg.cli.main import main
from writers.kline_entries import kline_of


def test_its_klines_are_good_and_each_of_another_key() -> None:
    bars = [*final_bars(750, 2000), *rollover_bars(750, 0), *rollover_bars(750, 1)]
    assert len({bar.key for bar in bars}) == len(bars) == 2000 + 2 * 750 * len(INTERVALS)
    for bar in bars[::97]:
        assert (
            kline_of({name.encode(): value.encode() for name, value in bar.to_fields().items()} | {b"v": b"2"}) == bar
        )


@pytest.mark.parametrize("rows", [500, 3 * AGO_ENTRIES])
def test_a_tenth_comes_once_more_and_after_the_first_time(rows: int) -> None:
    bars = final_bars(750, rows)
    entries = with_redelivered(bars, 10)
    assert len(entries) == rows * 11 // 10
    assert list(dict.fromkeys(entries)) == bars
    assert len(set(entries)) == rows


def said(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, object]:
    assert main(["bench", "writer", "--json", *options]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.servers
def test_it_tells_the_rate_beside_a_bare_one_and_how_an_outage_drains(capsys: pytest.CaptureFixture[str]) -> None:
    # Rows and backlog are each a little more than the writer's buffer holds (5,000).
    found = said(capsys, "--rows", "6000", "--rounds", "1", "--outage", "1", "--rate", "8000")
    assert found["name"] == "writer"
    for name in ("rows_per_s", "entries_per_s", "bare_rows_per_s", "ratio", "drain_rows_per_s", "drain_ratio"):
        value = found[name]
        assert isinstance(value, int | float)
        assert value > 0
    assert (found["rows"], found["redelivered"]) == (6000, 600)
    assert (found["outage_s"], found["backlog"]) == (1, 6000)


@pytest.mark.servers
def test_it_tells_how_soon_a_rollover_is_in_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    found = said(capsys, "--rollover", "--symbols", "20")
    assert (found["name"], found["bars"], found["rounds"]) == ("writer-rollover", 20 * 7, 5)
    assert isinstance(found["visible_ms"], int)
