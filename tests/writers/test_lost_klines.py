"""Klines that were cut from the stream, or fell out of the group, before their rows were in the table: the real process
on real servers. What the aggregator answers, a core of it says here."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import pytest
import redis

from klagg.drivers.postgres import Database
from klagg.drivers.redis_streams import Append, Entry, Streams
from klagg.kline import Kline
from klagg.wire.entries import EVENT_CLOSE, TICK, again_of, events_entry
from klagg.wire.fields import stamp
from klagg.wire.keys import GROUP_WRITERS, Keys
from tests.kit import eventually
from tests.writers.support import WriterProcess, entry_of, heartbeat, minutes, publish, stored, writer_process
from writers.lost_klines import finals_of

pytestmark = pytest.mark.servers

KEYS: Final = Keys(0)
GHOST: Final = "writer-final-gone"
HURRY: Final = (
    "import klagg.process.group_consumer as g, writers.lost_klines as l\n"
    "g.GONE_EVERY_S = 0.2\nl.LOOK_AFTER_S, l.STRAYS_AFTER_S, l.AGAIN_AFTER_S = 0.2, 0.5, 0.5"
)

Start = Callable[..., AbstractContextManager[WriterProcess]]


@pytest.fixture
def start(redis_url: str, database: Database, database_url: str, tmp_path: Path) -> Start:
    """Starts the writer on the test's Redis and database; its log is one file over all starts."""
    return lambda **options: writer_process(
        redis_url, database_url, tmp_path / "writer.log", **{"prelude": HURRY, **options}
    )


@pytest.fixture
def client(redis_url: str) -> redis.Redis:
    """Redis as somebody else's tool sees it."""
    return redis.Redis.from_url(redis_url, protocol=2)


def commit(streams: Streams, klines: list[Kline], *, first_seq: int = 1) -> list[str]:
    """The klines of a tick with their event, as an aggregator writes them; the ids of the klines."""
    return streams.write(appends_of(klines, first_seq))[: len(klines)]


def appends_of(klines: list[Kline], first_seq: int) -> list[Append]:
    rows = [
        (each.symbol, each.interval, each.open_time, "trade", 0, each.revision, "open", "final", "own")
        for each in klines
    ]
    return [
        *(Append(KEYS.klines, entry_of(each, seq)) for seq, each in enumerate(klines, first_seq)),
        Append(KEYS.events, stamp(events_entry(EVENT_CLOSE, klines[0].close_time, rows), "aggregator@1", first_seq)),
    ]


def asked(streams: Streams) -> list[tuple[str, str, int]]:
    return [bar for entry in streams.range(KEYS.feed) for bar in again_of(entry.fields)]


def answer(streams: Streams, klines: list[Kline]) -> None:
    """What an aggregator does about it."""
    entries = [stamp(each.to_fields() | {"again": "1"}, "aggregator@2", at) for at, each in enumerate(klines, 1)]
    streams.write([Append(KEYS.klines, entry) for entry in entries])


def lost(streams: Streams) -> int:
    return int(heartbeat(streams).get("counters", {}).get("lost", 0))


@pytest.fixture
def ghost(streams: Streams) -> Callable[[int], list[Entry]]:
    """Another consumer of the group that is given so many entries, and does nothing with them."""

    def taken(count: int) -> list[Entry]:
        streams.ensure_group(KEYS.klines, GROUP_WRITERS)
        return streams.read_group([KEYS.klines], GROUP_WRITERS, GHOST, count=count)[KEYS.klines]

    return taken


def test_a_kline_deleted_while_another_held_it_is_asked_for_and_stored(
    start: Start, database: Database, streams: Streams, client: redis.Redis, ghost: Callable[[int], list[Entry]]
) -> None:
    klines = minutes(6)
    commit(streams, klines)
    held = ghost(4)
    client.xdel(KEYS.klines, held[1].id)
    with start() as writer:
        eventually(lambda: asked(streams) == [klines[1].key])
        eventually(lambda: lost(streams) == 1)
        answer(streams, [klines[1]])
        eventually(lambda: stored(database) == [klines[1], *klines[4:]] or len(stored(database)) == 6)
        eventually(lambda: heartbeat(streams).get("counters", {}).get("lost_again") == 1)
        assert lost(streams) == 1, "counted once"
        assert writer.stop() in (0, 3)
    assert klines[1] in stored(database)


def test_what_a_removed_consumer_held_is_stored_at_the_next_start(
    start: Start, database: Database, streams: Streams, client: redis.Redis, ghost: Callable[[int], list[Entry]]
) -> None:
    """XGROUP DELCONSUMER forgets what the consumer held: neither pending nor unread, and still in the stream."""
    klines = minutes(6)
    commit(streams, klines)
    held = ghost(4)
    client.xdel(KEYS.klines, held[2].id)
    client.xgroup_delconsumer(KEYS.klines, GROUP_WRITERS, GHOST)
    with start() as writer:
        eventually(lambda: len(stored(database)) == 5)
        eventually(lambda: asked(streams) == [klines[2].key])
        eventually(lambda: lost(streams) == 1)
        answer(streams, [klines[2]])
        eventually(lambda: stored(database) == klines)
        assert writer.stop() == 0


def test_what_a_consumer_held_that_is_removed_under_a_running_writer(
    start: Start, database: Database, streams: Streams, client: redis.Redis, ghost: Callable[[int], list[Entry]]
) -> None:
    klines = minutes(9)
    with start() as writer:
        commit(streams, klines[:3])
        eventually(lambda: len(stored(database)) == 3)
        client.xgroup_setid(KEYS.klines, GROUP_WRITERS, "$")  # the writer waits for more, and is not given these
        commit(streams, klines[3:6], first_seq=4)
        eventually(lambda: streams.group_lag(KEYS.klines, GROUP_WRITERS) == 0)
        stolen = streams.range(KEYS.klines)[3:6]
        client.xdel(KEYS.klines, stolen[1].id)
        for each in stolen:
            client.xack(KEYS.klines, GROUP_WRITERS, each.id)
        commit(streams, klines[6:], first_seq=7)
        eventually(lambda: len(stored(database)) >= 8)
        if klines[4] not in stored(database):  # it was quicker than the deletion otherwise
            eventually(lambda: klines[4].key in asked(streams))
            answer(streams, [klines[4]])
        eventually(lambda: stored(database) == klines)
        assert writer.stop() == 0


@pytest.mark.parametrize("held", [0, 3])
def test_klines_trimmed_while_pending_or_unread(
    start: Start, database: Database, streams: Streams, ghost: Callable[[int], list[Entry]], held: int
) -> None:
    klines = minutes(8)
    with start() as writer:
        commit(streams, klines[:2])
        eventually(lambda: len(stored(database)) == 2)
        assert writer.stop() == 0
    commit(streams, klines[2:6], first_seq=3)
    if held:
        ghost(held)
    streams.trim_to(KEYS.klines, 0)
    commit(streams, klines[6:], first_seq=7)
    with start() as writer:
        wanted = {each.key for each in klines[2 : 2 + (held or 4)]}
        eventually(lambda: set(asked(streams)) >= wanted)
        answer(streams, klines[2:6])
        eventually(lambda: stored(database) == klines)
        eventually(lambda: lost(streams) >= len(wanted))
        assert writer.stop() in (0, 3)


def test_klines_trimmed_unread_in_the_millisecond_of_what_is_left(
    start: Start, database: Database, streams: Streams, client: redis.Redis
) -> None:
    klines = minutes(8)
    with start() as writer:
        commit(streams, klines[:2])
        eventually(lambda: len(stored(database)) == 2)
        assert writer.stop() == 0
    at_ms = int(streams.range(KEYS.klines)[-1].id.partition("-")[0]) + 10_000
    for part, first_seq in ((klines[2:6], 3), (klines[6:], 7)):
        streams.trim_to(KEYS.klines, 0)
        for append in appends_of(part, first_seq):
            client.xadd(append.key, append.fields, id=f"{at_ms}-*")  # type: ignore[arg-type]
    with start() as writer:
        eventually(lambda: set(asked(streams)) == {each.key for each in klines[2:6]})
        answer(streams, klines[2:6])
        eventually(lambda: stored(database) == klines)
        eventually(lambda: lost(streams) == 4)
        assert writer.stop() == 0


def test_what_is_asked_for_in_vain_ends_with_a_command(
    start: Start, streams: Streams, client: redis.Redis, ghost: Callable[[int], list[Entry]]
) -> None:
    klines = minutes(2)
    commit(streams, klines)
    client.xdel(KEYS.klines, ghost(1)[0].id)
    with start(prelude=f"{HURRY}\nl.AGAIN_AFTER_S, l.TRIES_MAX = 0.1, 2") as writer:
        command = (
            "klagg backfill --from 2024-07-18T19:04 --to 2024-07-18T19:05 --symbols BTCUSDT --intervals 1m --again"
        )
        eventually(lambda: command in writer.said())
        assert asked(streams) == [klines[0].key] * 2
        eventually(lambda: lost(streams))
        assert lost(streams) == 1, "counted once, although all that is left of the stream is behind it"
        assert writer.stop() in (0, 3)


def test_a_lost_duplicate_is_not_asked_for(
    start: Start, database: Database, streams: Streams, client: redis.Redis, ghost: Callable[[int], list[Entry]]
) -> None:
    """The table has the bar, in this version or a higher one."""
    (kline,) = minutes(1)
    with start() as writer:
        commit(streams, [kline])
        eventually(lambda: stored(database) == [kline])
        assert writer.stop() == 0
    publish(streams, [kline])
    client.xdel(KEYS.klines, ghost(1)[0].id)
    with start() as writer:
        eventually(lambda: lost(streams) == 1)
        commit(streams, minutes(3)[1:], first_seq=9)
        eventually(lambda: len(stored(database)) == 3)
        assert asked(streams) == []
        assert writer.stop() in (0, 3)


def test_a_buried_entry_is_not_taken_again_at_the_next_start(start: Start, streams: Streams) -> None:
    streams.write(
        [Append(KEYS.klines, stamp(minutes(1)[0].to_fields() | {"open": "9" * 38 + "." + "9" * 38}, "a@1", 1))]
    )
    for _ in range(2):
        with start() as writer:
            publish(streams, minutes(2))
            eventually(lambda: streams.group_lag(KEYS.klines, GROUP_WRITERS) == 0)
            assert writer.stop() == 0
    assert len(streams.range(KEYS.dead)) <= 1


def test_a_consumer_that_is_gone_for_long_leaves_the_group(
    start: Start, streams: Streams, client: redis.Redis, ghost: Callable[[int], list[Entry]]
) -> None:
    commit(streams, minutes(3))
    held = ghost(2)
    hurry = "import klagg.process.group_consumer as g\ng.IDLE_MS, g.RECLAIM_EVERY_S, g.DEAD_CONSUMER_S = 200, 0.1, 0"
    with start(prelude=f"{HURRY}\n{hurry}") as writer:
        eventually(
            lambda: [each["name"] for each in client.xinfo_consumers(KEYS.klines, GROUP_WRITERS)] == [b"writer-final"]
        )
        assert writer.stop() == 0
    assert held


def test_only_entries_that_publish_bars_tell_which_were_lost() -> None:
    close = events_entry(EVENT_CLOSE, 1, [("A", "1m", 60_000, "clock", 0, 1, "open", "waiting", "own")])
    raw = {name.encode(): value.encode() for name, value in stamp(close, "a", 1).items()}
    (version,) = finals_of(Entry("1-1", raw))
    assert (version.bar, version.revision, version.complete) == (("A", "1m", 60_000), 1, 0)
    assert finals_of(Entry("1-1", {**raw, b"n": b"2"})) == []
    tick = {name.encode(): value.encode() for name, value in stamp(events_entry(TICK, 1, []), "a", 1).items()}
    assert finals_of(Entry("1-1", tick)) == []
