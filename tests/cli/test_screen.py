"""The screen of `klagg up`: nothing wraps, the banner is there, long names stay in their columns."""

from __future__ import annotations

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from klagg.cli.screen import ProcessLine, Snapshot, picture, plain
from klagg.kline import FIELDS, INTEGER_FIELDS, Kline

BEAT = {"state": "running", "alarm": "", "counters": {"trades": 123_456_789, "ticks": 9}, "gauges": {"open_holes": 3}}


def kline(symbol: str) -> Kline:
    values = {name: "1234567.8901" if name not in INTEGER_FIELDS else 1_700_000_000_000 for name in FIELDS}
    return Kline(**{**values, "symbol": symbol, "interval": "1m", "complete": 1})  # type: ignore[arg-type]


def snapshot(banner: str = "THE MARKET IS SIMULATED") -> Snapshot:
    lines = [ProcessLine("aggregator-0", 12345, 2, 4000.0, BEAT), ProcessLine("ingest-A", None, 0, 1.0, None)]
    klines = [kline("BTCUSDT"), kline("币安人生币安人生币安人生USDT")] * 30
    return Snapshot(
        banner, "local exchange " + "x" * 200, 1_700_000_000_000, 4999.6, lines, klines, ["Redis 127.0.0.1:1"]
    )


def drawn(shown: Snapshot, width: int, height: int) -> list[str]:
    console = Console(width=width, height=height, file=io.StringIO(), force_terminal=False)
    console.print(picture(shown, width, height))
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue().splitlines()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (140, 50), (100, 30)])
def test_it_fits_the_terminal(width: int, height: int) -> None:
    lines = drawn(snapshot(), width, height)
    assert len(lines) <= height
    assert max(cell_len(line) for line in lines) <= width
    assert any("THE MARKET IS SIMULATED" in line for line in lines[:3])
    assert any("5,000 trades/s" in line for line in lines)
    assert sum("BTCUSDT" in line for line in lines) >= 3
    assert any("ingest-A" in line and "down" in line for line in lines)


def test_the_live_market_has_no_banner() -> None:
    assert not any("SIMULATED" in line for line in drawn(snapshot(""), 80, 24))
    assert not any("SIMULATED" in line for line in plain(snapshot("")))


def test_plain_lines_begin_with_the_banner() -> None:
    lines = plain(snapshot())
    assert lines[0] == "*** THE MARKET IS SIMULATED ***"
    assert "aggregator-0 running, ingest-A down" in lines[1]
    assert "last kline BTCUSDT 1m" in lines[2]


def test_an_alarm_is_the_state() -> None:
    assert ProcessLine("x", 1, 0, 1.0, {**BEAT, "alarm": "messages and no trades"}).state == "ALARM"
    assert ProcessLine("x", 1, 0, 1.0, None).state == "starting"
