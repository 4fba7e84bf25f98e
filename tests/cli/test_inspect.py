"""`klagg inspect`: records and lines of each stream, and the newest and following ones of a real Redis."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ujson
from rich.cells import cell_len

from klagg.cli import inspect
from klagg.cli.inspect import FORMATS, RecordFilter
from klagg.cli.main import main as klagg
from klagg.drivers.redis_streams import Streams
from klagg.errors import ContractError
from klagg.kline import Kline
from klagg.wire.entries import (
    EVENT_CLOSE,
    EVENT_LISTED,
    EVENT_TICK,
    TradeRow,
    events_entry,
    live_field,
    tick_entry,
    trades_entry_of_rows,
    watermark_entry,
)
from klagg.wire.fields import Fields, RawFields, stamp
from klagg.wire.keys import Keys, shard_of
from tests.conftest import ROOT
from tests.kit import eventually

CJK = "币安人生USDT"
T = 1_800_000_000_000  # 2027-01-15 08:00:00 UTC
LIVE = "1800000000000,1.0,2.0,0.5,1.5,10,15.00,7,4,6.00,100,106,{closed},1,{complete},{official}"


def trade(symbol: str, number: int, *, maker: bool = False, counts: bool = True) -> TradeRow:
    return TradeRow(symbol, number, "1.50", "3", 2 * number, 2 * number + 1, T + number, maker, counts)


def feed(*rows: TradeRow) -> Fields:
    return trades_entry_of_rows(rows, line="A", ids="agg", recv_ms=T)


def kline(symbol: str, interval: str = "1m", open_time: int = T, **changed: Any) -> Kline:
    values: dict[str, Any] = {
        "symbol": symbol,
        "interval": interval,
        "open_time": open_time,
        "close_time": open_time + 59_999,
        "open": "1.0",
        "high": "2.0",
        "low": "0.5",
        "close": "1.5",
        "volume": "10",
        "quote_volume": "15.00",
        "trades": 7,
        "taker_buy_volume": "4",
        "taker_buy_quote_volume": "6.00",
        "first_agg_id": 1,
        "last_agg_id": 5,
        "first_trade_id": 100,
        "last_trade_id": 106,
        "complete": 1,
        "official": 0,
        "epoch": 1,
        "revision": 1,
        "source": "own",
        "edge": "",
    }
    return Kline(**{**values, **changed})


def raw(fields: Fields) -> RawFields:
    """Fields as Redis gives them."""
    return {name.encode(): value.encode() for name, value in fields.items()}


def lines(what: str, fields: Fields) -> list[str]:
    kind = FORMATS[what]
    return [kind.line(record) for record in kind.records(raw(fields))]


def test_a_line_for_each_trade() -> None:
    assert lines("trades", feed(trade("BTCUSDT", 7), trade(CJK, 8, maker=True, counts=False))) == [
        "2027-01-15 08:00:00.007 BTCUSDT        buy  3 @ 1.50  id 7  fills 14-15  line A",
        f"2027-01-15 08:00:00.008 {CJK}   sell 3 @ 1.50  id 8  fills 16-17  line A  not counted in klines",
    ]


def test_symbols_take_the_same_room_on_a_terminal() -> None:
    starts = [line.split("buy")[0] for line in lines("trades", feed(trade("BTCUSDT", 7), trade(CJK, 7)))]
    assert len({cell_len(start) for start in starts}) == 1


@pytest.mark.parametrize("fields", [tick_entry(T), watermark_entry("A", ["BTCUSDT"], T)])
def test_other_entries_of_the_feed_hold_no_trades(fields: Fields) -> None:
    assert lines("trades", fields) == []


@pytest.mark.parametrize("broken", [{"price": "1"}, {"id": "1,x"}, {"line": None}])
def test_a_broken_entry_is_an_error_of_the_contract(broken: dict[str, str | None]) -> None:
    changed = {**feed(trade("A", 1), trade("A", 2)), **broken}
    with pytest.raises(ContractError):
        inspect.trades(raw({name: value for name, value in changed.items() if value is not None}))


def test_a_line_for_a_kline() -> None:
    assert lines("klines", kline(CJK).to_fields()) == [
        f"2027-01-15 08:00:00 {CJK}   1m  O 1.0 H 2.0 L 0.5 C 1.5  volume 10  trades 7  complete revision 1"
    ]
    (line,) = lines("klines", kline("BTCUSDT", complete=0, revision=2, source="mixed").to_fields())
    assert line.endswith("waiting  revision 2  source mixed")


def test_a_line_says_that_the_exchange_s_klines_made_a_bar_whole() -> None:
    (line,) = lines("klines", kline("BTCUSDT", complete=0, official=1, revision=2, source="mixed").to_fields())
    assert line.endswith("official revision 2  source mixed")


@pytest.mark.parametrize(
    ("closed", "complete", "official", "state"),
    [(0, 0, 0, "open"), (1, 0, 0, "closed"), (1, 1, 0, "final"), (1, 0, 1, "official")],
)
def test_a_line_for_each_live_bar(closed: int, complete: int, official: int, state: str) -> None:
    value = LIVE.format(closed=closed, complete=complete, official=official)
    fields = {"time": str(T), live_field(CJK, "1m"): value, live_field("A", "1h"): value}
    first, second = lines("live", stamp(fields, "aggregator-0@1", 1))
    assert first == f"2027-01-15 08:00:00 {CJK}   1m  O 1.0 H 2.0 L 0.5 C 1.5  volume 10  trades 7  {state}"
    assert second.split()[2:4] == ["A", "1h"]


def test_a_line_for_each_event() -> None:
    closes = [
        ("BTCUSDT", "1m", T, "trade", 0, 1, "open", "final", "own"),
        (CJK, "1m", T, "clock", 1, 1, "none", "waiting", "exchange"),
    ]
    assert lines("events", events_entry(EVENT_CLOSE, T + 60_250, closes)) == [
        "2027-01-15 08:01:00.250 BTCUSDT        close       interval=1m open_time=2027-01-15 08:00:00 trigger=trade "
        "empty=0 revision=1 before=open after=final source=own",
        f"2027-01-15 08:01:00.250 {CJK}   close       interval=1m open_time=2027-01-15 08:00:00 trigger=clock "
        "empty=1 revision=1 before=none after=waiting source=exchange",
    ]


def test_ticks_are_left_out_unless_asked_for() -> None:
    (tick,) = inspect.events(raw(events_entry(EVENT_TICK, T, [])))
    assert not RecordFilter().matches(tick)
    assert RecordFilter(ticks=True).matches(tick)
    assert FORMATS["events"].line(tick).endswith(" tick")


def test_symbol_and_interval_must_both_fit() -> None:
    wanted = RecordFilter(symbol="A", interval="1m")
    assert wanted.matches({"symbol": "A", "interval": "1m"})
    assert not wanted.matches({"symbol": "A", "interval": "5m"})
    assert not wanted.matches({"symbol": "AB", "interval": "1m"})


@pytest.fixture
def streams(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Streams]:
    """The real Redis, which `klagg inspect` finds by the environment."""
    monkeypatch.setenv("KLAGG_REDIS__URL", redis_url)
    found = Streams(redis_url)
    yield found
    found.close()


Capture = pytest.CaptureFixture[str]


def printed(capsys: Capture, *words: str) -> list[dict[str, Any]]:
    """What `klagg inspect … --json` prints."""
    assert klagg(["inspect", *words, "--json"]) == 0
    return [ujson.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.servers
def test_the_newest_trades_come_in_order(streams: Streams, capsys: Capture) -> None:
    for number in range(1, 1_000, 2):
        streams.append(Keys(0).feed, stamp(feed(trade("A", number), trade("B", number + 1)), "w", number))
        streams.append(Keys(0).feed, stamp(tick_entry(T), "w", number))
    assert [each["id"] for each in printed(capsys, "trades", "--count", "3")] == [998, 999, 1000]
    assert [each["id"] for each in printed(capsys, "trades", "b", "--count", "450")] == list(range(102, 1001, 2))
    (last,) = printed(capsys, "trades", "A", "--count", "1")
    assert last == {
        "symbol": "A",
        "id": 999,
        "price": "1.50",
        "qty": "3",
        "first": 1998,
        "last": 1999,
        "time": T + 999,
        "maker": 0,
        "counts": 1,
        "line": "A",
        "ids": "agg",
    }


@pytest.mark.servers
def test_all_shards_are_looked_at_and_put_in_order(streams: Streams, capsys: Capture, tmp_path: Path) -> None:
    url = os.environ["KLAGG_REDIS__URL"]
    (tmp_path / "klagg.toml").write_text(f'shards = 3\n[redis]\nurl = "{url}"\n', encoding="utf-8")
    options = ("--config", str(tmp_path / "klagg.toml"))
    written: dict[str, tuple[int, ...]] = {}
    for number in range(30):
        symbol = f"S{number}"
        entry = streams.append(Keys(shard_of(symbol, 3)).klines, stamp(kline(symbol).to_fields(), "w", number))
        written[symbol] = tuple(map(int, entry.split("-")))
    assert len({shard_of(symbol, 3) for symbol in written}) == 3
    found = [each["symbol"] for each in printed(capsys, "klines", "--count", "30", *options)]
    assert sorted(found) == sorted(written)
    assert [written[symbol] for symbol in found] == sorted(written.values())
    assert [each["symbol"] for each in printed(capsys, "klines", "S17", *options)] == ["S17"]


@pytest.mark.servers
def test_klines_live_and_events_of_a_symbol_with_a_chinese_name(streams: Streams, capsys: Capture) -> None:
    for symbol in ("BTCUSDT", CJK):
        for name in ("1m", "1h"):
            streams.append(Keys(0).klines, stamp(kline(symbol, name).to_fields(), "w", 1))
            value = LIVE.format(closed=0, complete=0, official=0)
            streams.append(Keys(0).live, stamp({"time": str(T), live_field(symbol, name): value}, "w", 1))
    rows = [("BTCUSDT", 1, "TRADING", 1, 3), (CJK, 2, "TRADING", 4, 0)]
    listed = events_entry(EVENT_LISTED, T, rows)
    streams.append(Keys(0).events, stamp(listed, "w", 1))
    streams.append(Keys(0).events, stamp(events_entry(EVENT_TICK, T, []), "w", 2))
    assert [each["interval"] for each in printed(capsys, "klines", CJK)] == ["1m", "1h"]
    (bar,) = printed(capsys, "live", CJK, "--interval", "1h")
    assert (bar["symbol"], bar["open_time"], bar["close"], bar["trades"]) == (CJK, T, "1.5", 7)
    (event,) = printed(capsys, "events", CJK)
    assert event == {
        "event": "listed",
        "at": T,
        "symbol": CJK,
        "generation": 2,
        "status": "TRADING",
        "price_scale": 4,
        "qty_scale": 0,
    }
    assert [each["event"] for each in printed(capsys, "events", "--ticks")] == ["listed", "listed", "tick"]
    assert klagg(["inspect", "klines", CJK]) == 0
    assert CJK in capsys.readouterr().out


@pytest.mark.servers
def test_an_entry_that_breaks_the_contract_is_named_and_passed_over(streams: Streams, capsys: Capture) -> None:
    streams.append(Keys(0).klines, stamp(kline("A").to_fields(), "w", 1))
    bad = streams.append(Keys(0).klines, {**stamp(kline("A").to_fields(), "w", 2), "trades": "many"})
    other = streams.append(Keys(0).klines, {**stamp(kline("A").to_fields(), "w", 3), "v": "9"})
    assert klagg(["inspect", "klines"]) == 0
    said = capsys.readouterr()
    assert said.out.count("\n") == 1
    assert f"entry {bad} of klines:{{0}} is left out" in said.err
    assert f"entry {other} of klines:{{0}} is left out" in said.err


@pytest.mark.servers
def test_nothing_is_a_note(streams: Streams, capsys: Capture) -> None:
    streams.append(Keys(0).klines, stamp(kline("A").to_fields(), "w", 1))
    assert klagg(["inspect", "klines", "NONE"]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "no klines of NONE in the newest 1 entries of klines:{0}\n"


@pytest.mark.servers
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("klines", "--interval", "7m"), "unknown interval '7m'"),
        (("trades", "--interval", "1m"), "trades have no interval"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(
    streams: Streams, capsys: Capture, options: tuple[str, ...], sentence: str
) -> None:
    assert klagg(["inspect", *options]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


@pytest.mark.servers
def test_follow_goes_on_until_ctrl_c(streams: Streams, tmp_path: Path) -> None:
    streams.append(Keys(0).klines, stamp(kline("A", open_time=T).to_fields(), "w", 1))
    output = tmp_path / "output"
    with output.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "klagg", "inspect", "klines", "A", "--follow", "--json"],
            cwd=ROOT,
            stdout=out,
            stderr=subprocess.STDOUT,
        )

    def opened() -> list[int]:
        return [ujson.loads(line)["open_time"] for line in output.read_text(encoding="utf-8").splitlines()]

    try:
        eventually(lambda: opened() == [T])
        for number in (1, 2, 3):
            streams.append(Keys(0).klines, stamp(kline("AB").to_fields(), "w", 10 + number))
            streams.append(Keys(0).klines, stamp(kline("A", open_time=T + number).to_fields(), "w", 20 + number))
        eventually(lambda: opened() == [T, T + 1, T + 2, T + 3])
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert opened() == [T, T + 1, T + 2, T + 3], "nothing else was printed, no traceback"
    finally:
        process.kill()
        process.wait(10)
