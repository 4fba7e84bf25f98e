"""The faulty hub by itself, over transports in memory; what clients see is in test_server_faults."""

from __future__ import annotations

from klagg.binance.serving.subscriptions import Subscriptions
from klagg.simulator.faults import read_faults
from klagg.simulator.faulty_hub import FaultyHub
from klagg.simulator.hub import StreamConnection
from klagg.simulator.streams import WebSocketRoute
from tests.simulator.test_hub import Sink


class Socket(Sink):
    """A transport that can stop reading."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = True

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True


def hub(text: str, *, seed: int = 1, buffer_bytes: int = 10_000) -> FaultyHub:
    return FaultyHub(buffer_bytes, read_faults(f"seed = {seed}\n[[fault]]\n{text}"))


def join(faulty: FaultyHub, *names: str, line: str = "") -> tuple[StreamConnection, Socket]:
    socket = Socket()
    connection = StreamConnection(
        WebSocketRoute.MARKET, socket, Subscriptions(combined=False, streams_max=10), line=line
    )
    faulty.attach(connection)
    faulty.listen(connection, connection.subscriptions.add(names))
    return connection, socket


def aborted(sockets: list[Socket]) -> list[int]:
    return [place for place, socket in enumerate(sockets) if socket.aborted]


def test_a_number_is_chosen_by_the_seed() -> None:
    chosen = []
    for seed in (1, 1, 2, 3, 4):
        faulty = hub('kind = "disconnect"\nconnections = 3', seed=seed)
        sockets = [join(faulty)[1] for _ in range(10)]
        faulty.turn(0)
        chosen.append(aborted(sockets))
    assert [len(each) for each in chosen] == [3] * 5
    assert chosen[0] == chosen[1]
    assert len({tuple(each) for each in chosen}) > 2


def test_a_number_of_new_connections_is_counted_even_when_they_leave() -> None:
    faulty = hub('kind = "disconnect"\nfor_s = 5\nreach = "new"\nconnections = 2')
    before = join(faulty)[1]
    faulty.turn(0)
    sockets = []
    for _ in range(4):
        connection, socket = join(faulty)
        sockets.append(socket)
        faulty.detach(connection)
    assert (before.aborted, aborted(sockets)) == (False, [0, 1])


def test_places_count_within_the_line() -> None:
    faulty = hub('kind = "disconnect"\nline = "B"\nconnections = [2]')
    sockets = [join(faulty, line=line)[1] for line in "ABABB"]
    faulty.turn(0)
    assert aborted(sockets) == [3]


def test_an_occurrence_that_was_slept_through_is_left_out_and_a_moment_is_not() -> None:
    stall = hub('kind = "stall"\nat_s = 1\nfor_s = 1\nevery_s = 10')
    _, socket = join(stall)
    stall.turn(500)
    reads = []
    for now_ms in (5_000, 11_000, 12_000):
        stall.turn(now_ms)
        reads.append(socket.reads)
    assert reads == [True, False, True]
    moment = hub('kind = "disconnect"\nat_s = 1\nevery_s = 10')
    _, socket = join(moment)
    moment.turn(5_000)
    assert socket.aborted
    moment.turn(6_000)
    assert moment.acted[1] == 1


def test_a_repeated_fault_takes_new_ones_each_time_without_a_turn_between() -> None:
    faulty = hub('kind = "silent"\nfor_s = 9\nevery_s = 10\nreach = "open"')
    _, first = join(faulty, "a@aggTrade")
    faulty.turn(1_000)
    _, second = join(faulty, "a@aggTrade")
    faulty.publish("a@aggTrade", str, "{}")
    faulty.flush()
    assert (first.writes, second.writes) == ([], [b"\x81\x02{}"])
    faulty.turn(11_000)
    faulty.publish("a@aggTrade", str, "{}")
    faulty.flush()
    assert (first.writes, len(second.writes), faulty.acted[1]) == ([], 1, 3)


def test_what_a_stalled_connection_is_owed_is_paid_in_one_piece() -> None:
    faulty = hub('kind = "stall"\nfor_s = 2')
    connection, socket = join(faulty, "a@aggTrade")
    faulty.turn(0)
    for _ in range(3):
        faulty.publish("a@aggTrade", str, "{}")
        faulty.flush()
    assert (socket.writes, connection.pending_bytes) == ([], 12)
    faulty.turn(2_000)
    faulty.flush()
    assert (socket.writes, socket.aborted) == ([b"\x81\x02{}" * 3], False)


def test_a_stall_keeps_no_more_than_the_buffer() -> None:
    faulty = hub('kind = "stall"\nfor_s = 2', buffer_bytes=10)
    connection, socket = join(faulty, "a@aggTrade")
    faulty.turn(0)
    for _ in range(50):
        faulty.publish("a@aggTrade", str, "{}")
        faulty.flush()
        assert connection.pending_bytes <= 10
    faulty.turn(2_000)
    assert (socket.writes, socket.aborted) == ([], True)


def test_two_stalls_overlap() -> None:
    text = 'kind = "stall"\nfor_s = 2\n[[fault]]\nkind = "stall"\nat_s = 1\nfor_s = 2'
    faulty = hub(text)
    _, socket = join(faulty)
    states = []
    for elapsed_ms in (0, 1_000, 2_000, 3_000):
        faulty.turn(elapsed_ms)
        states.append(socket.reads)
    assert states == [False, False, False, True]


def test_frames_held_back_are_bounded_and_released_in_time() -> None:
    faulty = hub('kind = "reorder"\nfor_s = 60\nwithin_ms = 500', buffer_bytes=350)
    _, socket = join(faulty, "a@aggTrade")
    faulty.turn(0)
    events = [f"{{{number:03}}}".encode() for number in range(100)]
    for event in events:
        faulty.publish("a@aggTrade", bytes.decode, event)
    faulty.flush()
    assert len(b"".join(socket.writes)) == 51 * 7  # the 51st frame is one too many to hold
    faulty.turn(499)
    faulty.flush()
    assert len(socket.writes) == 1
    faulty.turn(500)
    faulty.flush()
    written = b"".join(socket.writes)
    frames = [written[place + 2 : place + 7] for place in range(0, len(written), 7)]
    assert frames != events
    assert sorted(frames) == events


def test_nothing_is_kept_of_those_who_leave() -> None:
    faulty = hub('kind = "reorder"\nfor_s = 1')
    connection, socket = join(faulty, "a@aggTrade")
    faulty.turn(0)
    faulty.publish("a@aggTrade", str, "{}")
    faulty.detach(connection)
    faulty.detach(connection)
    faulty.turn(1_000)
    faulty.flush()
    assert (socket.writes, faulty.streams, len(faulty.connections)) == ([], 0, 0)
