"""Fan-out over transports that take everything, or nothing."""

from __future__ import annotations

import json
from typing import Any, cast

from gateway.hub import UNSENT_BYTES_MAX, Client, Hub
from gateway.live import Change
from gateway.streams import KlineStreamKind
from klagg.binance.serving.subscriptions import Subscriptions
from tests.gateway.kit import FINAL, MINUTE_MS, NOW_MS, bar


class Wire:
    """A transport: while `stuck`, its peer takes nothing."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.writes = 0
        self.stuck = False

    def write(self, data: bytes) -> None:
        self.written += data
        self.writes += 1

    def get_write_buffer_size(self) -> int:
        return UNSENT_BYTES_MAX + 1 if self.stuck else 0

    def is_closing(self) -> bool:
        return False

    def said(self) -> list[Any]:
        """The payloads written so far."""
        found, data = [], bytes(self.written)
        while data:
            assert data[0] == 0x81
            size, start = (data[1], 2) if data[1] < 126 else (int.from_bytes(data[2:4]), 4)
            found.append(json.loads(data[start : start + size]))
            data = data[start + size :]
        return found


def a_client(hub: Hub, *names: str, combined: bool = False) -> tuple[Client, Wire]:
    wire = Wire()
    subscriptions = Subscriptions(combined, 1024)
    client = Client(cast(Any, wire), subscriptions)
    hub.attach(client)
    hub.listen(client, subscriptions.add(names))
    return client, wire


def change(number: int = 0, symbol: str = "BTCUSDT", **changes: Any) -> Change:
    return Change(symbol, "1m", bar(open_time=NOW_MS + number * MINUTE_MS, **changes), None)


def told(wire: Wire) -> list[tuple[int, int, bool]]:
    """Bar, trades and x of every event."""
    return [((each["k"]["t"] - NOW_MS) // MINUTE_MS, each["k"]["n"], each["k"]["x"]) for each in wire.said()]


def test_each_client_gets_its_streams_in_one_write_raw_or_wrapped() -> None:
    hub = Hub(1 << 20)
    _, raw = a_client(hub, "btcusdt@kline_1m", "ethusdt@kline_1m")
    _, wrapped = a_client(hub, "btcusdt@kline_1m", combined=True)
    _, other = a_client(hub, "btcusdt@kline_5m", "nonsense")
    hub.publish([change(), change(symbol="ETHUSDT"), change(symbol="ADAUSDT")])
    assert [each["s"] for each in raw.said()] == ["BTCUSDT", "ETHUSDT"]
    assert [each["stream"] for each in wrapped.said()] == ["btcusdt@kline_1m"]
    assert wrapped.said()[0]["data"] == raw.said()[0]
    assert (raw.writes, wrapped.writes, other.writes) == (1, 1, 0)
    assert (hub.streams, hub.frames_sent) == (3, 3)


def test_a_slow_client_gets_the_newest_state_and_every_final() -> None:
    hub = Hub(1 << 20)
    _, slow = a_client(hub, "btcusdt@kline_1m", "ethusdt@kline_1m")
    slow.stuck = True
    for number in range(3):
        for trades in (1, 2, 3):
            hub.publish([change(number, trades=trades)])
        hub.publish([change(number, trades=4, **FINAL)])
    hub.publish([change(3, trades=7), change(symbol="ETHUSDT", trades=9)])
    hub.publish([change(2, trades=5, closed=1, revision=2, complete=1)])
    hub.publish([change(3, trades=8)])
    assert slow.said() == []
    slow.stuck = False
    hub.flush()
    assert [each for each in told(slow) if each != (0, 9, False)] == [
        (0, 4, True),
        (1, 4, True),
        (2, 4, True),
        (3, 8, False),
        (2, 5, True),
    ]
    assert (0, 9, False) in told(slow), "the other stream's bar waited too"
    hub.flush()
    assert slow.writes == 1


def test_who_is_too_slow_even_for_finals_is_dismissed_and_the_others_are_not_held_up() -> None:
    hub = Hub(finals_bytes_max=2000)
    reasons: list[str] = []
    stuck, wire = a_client(hub, "btcusdt@kline_1m")
    _, other = a_client(hub, "btcusdt@kline_1m")

    def dismiss(reason: str) -> None:
        reasons.append(reason)
        hub.detach(stuck)

    stuck.dismiss = dismiss
    wire.stuck = True
    for number in range(20):
        hub.publish([change(number, trades=1), change(number, trades=2, **FINAL)])
    assert len(reasons) == 1
    assert "too slow" in reasons[0]
    assert (list(hub.clients).count(stuck), stuck.waiting, hub.dismissed) == (0, {}, 1)
    assert [each for each in told(other) if each[2]] == [(number, 2, True) for number in range(20)]


def test_states_in_progress_alone_never_fill_the_room() -> None:
    hub = Hub(finals_bytes_max=2000)
    client, wire = a_client(hub, "btcusdt@kline_1m")
    wire.stuck = True
    for trades in range(1000):
        hub.publish([change(trades=trades)])
    assert (len(client.waiting), client.finals_bytes, hub.dismissed) == (1, 0, 0)


def test_a_late_trade_of_the_bar_before_does_not_hide_the_newest_bar() -> None:
    hub = Hub(1 << 20)
    _, wire = a_client(hub, "btcusdt@kline_1m")
    wire.stuck = True
    hub.publish([change(1, trades=1), change(0, trades=9)])
    wire.stuck = False
    hub.flush()
    assert told(wire) == [(1, 1, False)]


def test_nothing_comes_after_an_unsubscription_or_the_end() -> None:
    hub = Hub(1 << 20)
    client, wire = a_client(hub, "btcusdt@kline_1m", "ethusdt@kline_1m")
    hub.unlisten(client, client.subscriptions.remove(["btcusdt@kline_1m"]))
    hub.publish([change(), change(symbol="ETHUSDT")])
    assert [each["s"] for each in wire.said()] == ["ETHUSDT"]
    hub.detach(client)
    hub.publish([change(symbol="ETHUSDT")])
    assert (wire.writes, hub.streams) == (1, 0)


def test_a_bar_is_shown_to_one_client() -> None:
    hub = Hub(1 << 20)
    client, wire = a_client(hub, "btcusdt@kline_1m", combined=True)
    hub.queue_current(client, "btcusdt@kline_1m", KlineStreamKind.KLINE, change(trades=3))
    hub.flush()
    assert wire.said()[0]["data"]["k"]["n"] == 3
