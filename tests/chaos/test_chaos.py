"""A small run of chaos, and its pure parts."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from klagg.binance.serving.subscriptions import Subscriptions
from klagg.embedded import PostgresServer
from klagg.simulator.hub import StreamConnection
from klagg.simulator.market import MarketTrade
from klagg.simulator.payloads import agg_trade_event
from klagg.simulator.streams import WebSocketRoute
from tests.chaos import weather
from tests.chaos.__main__ import play, verdict
from tests.chaos.aof import TailWatch
from tests.chaos.cutter import Cutter
from tests.chaos.market import ChaosMarket
from tests.chaos.plan import BLACKOUT, CUT_EXEC, CUT_REPLY, CUT_TAIL, KILL, SECOND, WEIGHTS, plan
from tests.chaos.shape import Shape
from tests.chaos.table import Bar, Key, differences, digest
from tests.kit import eventually

SMALL = Shape(seed=7, symbols=20, trades=50_000, window_minutes=1, warm_ms=20_000, tail_ms=15_000)


@pytest.mark.endtoend
@pytest.mark.servers
@pytest.mark.timeout(240)
def test_a_small_storm_leaves_the_same_table(tmp_path: Path, postgres_server: PostgresServer) -> None:
    calm, chaos = play(SMALL, tmp_path, seed=7, kills=10, speeds=(10, 5), postgres=postgres_server)
    assert sum(chaos.kills.values()) == 10
    assert chaos.counts["gap_opened"] > 0
    assert chaos.counts["duplicates"] > 0
    for fault in (CUT_TAIL, CUT_EXEC, CUT_REPLY, SECOND, "doubled", "delayed", "lost to all lines"):
        assert chaos.faults[fault] > 0, fault
    assert verdict(SMALL, calm, chaos)


def test_a_plan_follows_from_its_seed() -> None:
    one = plan(1, 200, 300_000)
    assert one == plan(1, 200, 300_000)
    assert one != plan(2, 200, 300_000)


@pytest.mark.parametrize("kills", [1, 3, 4, 10, 200])
def test_a_plan_has_its_kills_in_order_and_every_kind(kills: int) -> None:
    faults = plan(3, kills, 300_000)
    kinds = Counter(fault.kind for fault in faults)
    assert kinds[KILL] + kinds[BLACKOUT] == kills
    assert min(kinds[kind] for kind in (CUT_TAIL, CUT_EXEC, CUT_REPLY, SECOND)) >= 1
    assert faults == sorted(faults)
    assert all(0 <= fault.at_ms < 300_000 for fault in faults)
    if kills >= 10:
        assert {fault.target for fault in faults if fault.kind == KILL} == set(WEIGHTS)


def test_a_market_keeps_to_its_span_and_every_symbol_trades_at_both_ends() -> None:
    market = ChaosMarket(SMALL)
    trades = dict(market.by_symbol())
    assert len(trades) == SMALL.symbols
    assert sum(map(len, trades.values())) >= SMALL.trades
    for rows in trades.values():
        assert SMALL.begin_ms < rows[0].event_ms < SMALL.window_from_ms
        assert SMALL.window_to_ms < rows[-1].event_ms <= SMALL.end_ms
        assert [row.id for row in rows] == list(range(rows[0].id, rows[-1].id + 1))
    assert not market.aggregates(SMALL.end_ms, SMALL.end_ms + 60_000)
    symbol, rows = next(iter(trades.items()))
    assert not market.aggregates_from(symbol, rows[-1].id + 1, 10, SMALL.end_ms + 60_000)
    assert [row.id for row in market.aggregates_from(symbol, rows[5].id, 3, SMALL.end_ms)] == [
        row.id for row in rows[5:8]
    ]


def test_recordings_are_moved_to_the_market(realdata: Path) -> None:
    shape = Shape(
        symbols=20,
        trades=50_000,
        window_minutes=5,
        recordings=(str(realdata / "um_trade_btcusdt_2024-07-18_19.txt.gz"),),
    )
    market = ChaosMarket(shape)
    assert market.recorded_symbols == ["BTCUSDT"]
    rows = dict(market.by_symbol())["BTCUSDT"]
    assert shape.begin_ms < rows[0].event_ms < shape.begin_ms + 5_000
    assert rows[-1].event_ms > shape.window_to_ms
    bar = market.bar("BTCUSDT", shape.window_from_ms, shape.window_from_ms + 59_999, shape.end_ms)
    assert bar is not None
    assert bar.open_ms == shape.window_from_ms
    inside = [row for row in rows if bar.open_ms <= row.time_ms <= bar.close_ms]
    assert (bar.trades, bar.first_id, bar.last_id) == (len(inside), inside[0].first, inside[-1].last)


class _Wire:
    """What a hub writes to."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0


def test_weather_loses_doubles_and_delays_only_in_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weather, "LOST_ALL", 0.01)
    hub = weather.FaultyHub(1, 100_000, 200_000)
    wires = [_Wire(), _Wire()]
    for wire in wires:
        connection = StreamConnection(WebSocketRoute.MARKET, wire, Subscriptions(False, 10))  # type: ignore[arg-type]
        hub.attach(connection)
        hub.listen(connection, ["abc@aggTrade"])
    for number in range(30_000):
        trade = MarketTrade("ABC", number, "1", "1", "1", number, number, number * 10, number * 10, False, "")
        hub.publish("abc@aggTrade", agg_trade_event, trade)
        hub.flush()
    seen = [Counter(int(part.split(b",", 1)[0]) for part in wire.written.split(b'"a":')[1:]) for wire in wires]
    calm = {*range(10_000), *range(20_000, 30_000)}
    assert all(each[number] == 1 for each in seen for number in calm)
    lost = {number for number in range(30_000) if not any(each[number] for each in seen)}
    assert len(lost) == hub.done["lost to all lines"] > 0
    assert sum(number not in each for each in seen for number in range(30_000)) == (
        2 * len(lost) + hub.done["lost to one line"]
    )
    assert sum(count == 2 for each in seen for count in each.values()) == hub.done["doubled"] > 0
    assert hub.done["delayed"] > 0
    for wire in wires:
        order = [int(part.split(b",", 1)[0]) for part in wire.written.split(b'"a":')[1:]]
        late = [earlier - later for earlier, later in pairwise(order) if earlier > later]
        assert late
        assert max(late) <= weather.DELAY_MS_MAX / 10


@contextmanager
def _echo() -> Iterator[tuple[int, list[bytes]]]:
    """A server that keeps what it gets and answers every piece; what it got stands in the list once it is closed."""
    got: list[bytes] = []

    def serve(listening: socket.socket) -> None:
        client, _ = listening.accept()
        with client:
            parts = []
            while part := client.recv(1 << 16):
                parts.append(part)
                client.sendall(b"+OK\r\n")
            got.append(b"".join(parts))

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,), daemon=True)
        thread.start()
        yield listening.getsockname()[1], got
        thread.join(5)


@pytest.mark.parametrize("deliver", [True, False])
@pytest.mark.parametrize("split", [0, 9, 12, 14])
def test_the_cutter_cuts_at_an_exec(deliver: bool, split: int) -> None:
    command = b"*1\r\n$4\r\nEXEC\r\n"
    with _echo() as (port, got):
        cutter = Cutter(port)
        with socket.create_connection(("127.0.0.1", int(cutter.url.rsplit(":", 1)[1].split("/")[0])), 5) as client:
            client.settimeout(5)
            client.sendall(b"*1\r\n$4\r\nPING\r\n")
            assert client.recv(100) == b"+OK\r\n"
            cutter.arm("cut", deliver=deliver)
            if split:
                client.sendall(command[:split])
                if split < len(command):
                    assert client.recv(100) == b"+OK\r\n"
            if split < len(command):
                client.sendall(command[split:])
            assert client.recv(100) == b""
        eventually(lambda: got)
        cutter.close()
    assert (command in got[0]) is deliver
    assert cutter.done == {"cut": 1}


def test_a_tail_is_cut_to_a_known_length(tmp_path: Path) -> None:
    folder = tmp_path / "appendonlydir"
    folder.mkdir()
    (folder / "appendonly.aof.9.incr.aof").write_bytes(b"old" * 100)
    file = folder / "appendonly.aof.10.incr.aof"
    watch = TailWatch(tmp_path)
    for at in range(20):
        file.write_bytes(b"x" * 100 * (at + 1))
        watch.look(at / 10)
    assert watch.cut(2.0, 450) == 300
    assert file.stat().st_size == 1700
    assert watch.cut(2.0, 450) == 0


def test_a_digest_knows_every_value() -> None:
    bars = {Key("A", "1m", 0): Bar(("1", "2"), True, False), Key("B", "1m", 0): Bar(("1", "3"), True, False)}
    other = {**bars, Key("B", "1m", 0): Bar(("1", "3"), False, False)}
    told = {**bars, Key("B", "1m", 0): Bar(("1", "3"), False, True)}
    assert digest(bars) == digest(dict(reversed(bars.items())))
    assert len({digest(each) for each in (bars, other, told)}) == 3
    assert list(differences(bars, other)) == [("B|1m|0|1|3|complete", "B|1m|0|1|3|waiting")]
    assert list(differences(other, told)) == [("B|1m|0|1|3|waiting", "B|1m|0|1|3|official")]
    assert len(list(differences(bars, {}))) == 2
