"""What `klagg up` shows of a snapshot."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console

from klagg.cli.up import screen
from klagg.cli.up.screen import ProcessLine, ScreenState
from klagg.kline import Kline

BANNER = "THE MARKET IS SIMULATED: these are invented trades, not the exchange's"


def kline(symbol: str, interval: str = "1m") -> Kline:
    return Kline(
        symbol=symbol,
        interval=interval,
        open_time=1_790_000_040_000,
        close_time=1_790_000_099_999,
        open="1.5",
        high="1234567.12345678",
        low="1.4",
        close="1.7",
        volume="98765432109.876",
        quote_volume="1",
        trades=12345,
        taker_buy_volume="1",
        taker_buy_quote_volume="1",
        first_agg_id=1,
        last_agg_id=2,
        first_trade_id=1,
        last_trade_id=2,
        complete=1,
        official=0,
        epoch=1,
        revision=1,
        source="own",
        edge="",
    )


def beat(**changed: object) -> dict[str, object]:
    counters = {"trades": 123_456_789, "messages": 123_456_789, "finals": 99_999}
    gauges = {"delay_ms": 12, "clock_delay_ms": 5.65, "open_gaps": 3, "commit_ms": 0.51}
    return {"state": "running", "alarm": "", "counters": counters, "gauges": gauges, **changed}


SNAPSHOT = ScreenState(
    BANNER,
    "simulator: 600 invented symbols, 5000 trades/s, ×1",
    1_790_000_100_123,
    4817.6,
    [
        ProcessLine("aggregator-0", 1234567, 0, 59.9, beat()),
        ProcessLine("writer-final", 12, 3, 3600, beat(alarm="ALARM: 5 entries in 10 s and no klines")),
        ProcessLine("clock", None, 1, 61, beat()),
        ProcessLine("ingest-A", 14, 0, 1, None),
    ],
    [kline("BTCUSDT"), kline("币安人生USDT"), kline("1000000BOBUSDT_260925", "30m")] * 20,
    ["Redis       127.0.0.1:51201, append-only file on", "hypertables are off: " + "because of a long reason " * 9],
    ["2026-11-21T06:13:19.431Z WARNING ingest-A: " + "a long story 币安人生 " * 12] * 9,
)


def lines(snapshot: ScreenState, width: int, height: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(screen.picture(snapshot, width, height), end="")
    return capture.get().splitlines()


@pytest.mark.parametrize("banner", [BANNER, ""])
@pytest.mark.parametrize(("width", "height"), [(80, 24), (100, 30), (140, 30), (200, 60)])
def test_the_picture_fits_the_terminal(width: int, height: int, banner: str) -> None:
    shown = lines(replace(SNAPSHOT, banner=banner), width, height)
    assert len(shown) <= height
    assert max(map(cell_len, shown)) <= width
    assert any("SIMULATED" in line for line in shown) == bool(banner)


@pytest.mark.parametrize("width", [80, 140])
def test_the_picture_says_what_matters(width: int) -> None:
    shown = lines(SNAPSHOT, width, 30)
    text = "\n".join(shown)
    assert BANNER in shown[1]
    assert "exchange time 2026-09-21 14:15:00   4,818 trades/s" in text
    for name, state in (
        ("aggregator-0", "running"),
        ("writer-final", "ALARM"),
        ("clock", "down"),
        ("ingest-A", "starting"),
    ):
        assert any(line.split()[:2] == [name, state] for line in shown)
    assert any(line.split()[:2] == ["币安人生USDT", "1m"] for line in shown)
    assert "hypertables are off" in text
    assert "WARNING ingest-A" in text
    assert "klagg inspect klines --follow" in shown[-1]
    assert "Ctrl-C" in shown[-1]


def test_a_wide_picture_shows_whole_klines() -> None:
    row = next(line.split() for line in lines(SNAPSHOT, 140, 30) if " BTCUSDT " in line)
    assert row == [
        "BTCUSDT",
        "1m",
        "2026-09-21",
        "14:14",
        "1.5",
        "1234567.12345678",
        "1.4",
        "1.7",
        "98765432109.876",
        "12345",
        "yes",
    ]


def test_before_the_first_kline() -> None:
    text = "\n".join(lines(replace(SNAPSHOT, klines=[], exchange_ms=0), 80, 24))
    assert "none yet" in text
    assert "not known yet" in text


def test_plain_lines_say_the_same() -> None:
    shown = screen.plain(SNAPSHOT)
    assert shown[0] == f"*** {BANNER} ***"
    assert shown[1] == (
        "exchange time 2026-09-21 14:15:00, 4,818 trades/s; "
        "aggregator-0 running, writer-final ALARM, clock down, ingest-A starting"
    )
    assert shown[2].startswith("last kline BTCUSDT 1m 2026-09-21 14:14:00 close 1.7 ")
    assert len(screen.plain(replace(SNAPSHOT, banner="", klines=[]))) == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.9, "59s"), (60, "1m00s"), (3599, "59m59s"), (3600, "1h00m"), (90_061, "25h01m")],
)
def test_durations(seconds: float, text: str) -> None:
    assert screen.duration(seconds) == text
