"""The outbox: numbered once, in order, bounded; the oldest goes first, and by its ids."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from ingest.outbox import ENTRY_OVERHEAD_BYTES, Outbox
from klagg.process.stats import Stats
from klagg.wire.entries import (
    BY_STREAM,
    TRADE_IDS,
    TradeRow,
    Witness,
    trades_entry_of_rows,
    watermark_entry,
    witness_entries,
)
from klagg.wire.fields import VERSION, Fields

FEED = "feed:{0}"


class Time:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.ms = 0.0

    def __call__(self) -> float:
        return self.ms


def an_outbox(bytes_max: int = 1 << 20, age_s_max: float = 120, time: Time | None = None) -> Outbox:
    return Outbox("ingest-A@5", bytes_max, age_s_max, Stats(), now_ms=time or Time())


def trades(ids: Iterable[int], symbol: str = "BTCUSDT") -> Fields:
    rows = [TradeRow(symbol, number, "1", "1", number, number, 1_000_000 + number, False) for number in ids]
    return trades_entry_of_rows(rows, line="A", ids="agg", recv_ms=1)


def seqs(outbox: Outbox, count: int = 100) -> list[str]:
    return [fields["seq"] for _, fields in outbox.head(count, 1 << 20)]


def spans(outbox: Outbox) -> dict[str, list[tuple[int, int]]]:
    return {symbol: each.spans for dropped in outbox.dropped.values() for symbol, each in dropped.symbols.items()}


def test_entries_are_stamped_by_stream_and_leave_in_order() -> None:
    outbox = an_outbox()
    for key in ("feed:{0}", "feed:{1}", "feed:{0}"):
        outbox.put(key, {"kind": "tick"})
    assert outbox.head(1, 1 << 20)[0][1] == {"v": str(VERSION), "writer": "ingest-A@5", "seq": "1", "kind": "tick"}
    assert [(key, fields["seq"]) for key, fields in outbox.head(10, 1 << 20)] == [
        ("feed:{0}", "1"),
        ("feed:{1}", "1"),
        ("feed:{0}", "2"),
    ]
    outbox.head(2, 1 << 20)
    outbox.acknowledge()
    assert seqs(outbox) == ["2"]


def test_looking_takes_nothing_and_keeps_numbers() -> None:
    outbox = an_outbox()
    outbox.put("k", {"a": "1"})
    assert outbox.head(5, 1 << 20) == outbox.head(5, 1 << 20)
    assert len(outbox) == 1


def test_a_pipeline_is_bounded_but_never_empty() -> None:
    outbox = an_outbox()
    for _ in range(4):
        outbox.put("k", {"a": "x" * 1000})
    assert len(outbox.head(3, 1 << 20)) == 3
    assert len(outbox.head(4, 2 * (1100 + ENTRY_OVERHEAD_BYTES))) == 2
    assert len(outbox.head(4, 1)) == 1


def test_streams_that_may_not_be_written_wait_and_others_pass_them() -> None:
    outbox = an_outbox()
    for number in range(6):
        outbox.put(f"feed:{{{number % 2}}}", {"n": str(number)})
    assert [fields["n"] for _, fields in outbox.head(10, 1 << 20, {"feed:{0}"})] == ["1", "3", "5"]
    outbox.acknowledge()
    assert [(fields["n"], fields["seq"]) for _, fields in outbox.head(10, 1 << 20)] == [
        ("0", "1"),
        ("2", "2"),
        ("4", "3"),
    ]


def test_a_full_outbox_takes_the_newest_and_drops_the_oldest_by_their_ids() -> None:
    size = ENTRY_OVERHEAD_BYTES + 1500
    outbox = an_outbox(10 * size)
    outbox.trouble = "Redis does not answer"
    for number in range(100):
        outbox.put(FEED, trades([2 * number, 2 * number + 1]))
        assert outbox.bytes <= 10 * size
    kept = len(outbox)
    assert 5 < kept < 100
    assert spans(outbox) == {"BTCUSDT": [(0, 2 * (100 - kept) - 1)]}
    assert outbox.dropped[FEED].symbols["BTCUSDT"].count == 2 * (100 - kept)
    assert outbox.dropped_because == "Redis does not answer"
    assert [fields["id"] for _, fields in outbox.head(1, 1)] == [f"{2 * (100 - kept)},{2 * (100 - kept) + 1}"]
    assert list(outbox.drain_dropped()) == [FEED]
    assert outbox.dropped == {}


def test_what_is_numbered_stays_and_what_is_dropped_has_no_number() -> None:
    """So numbers have no gap, and nobody takes what was dropped for what was lost behind this process."""
    outbox = an_outbox(40_000)
    for number in range(3):
        outbox.put(FEED, trades([number]))
    first = outbox.head(2, 1 << 20)
    for number in range(3, 60):
        outbox.put(FEED, trades([number]))
    assert outbox.head(2, 1 << 20) == first
    assert [low for low, _ in spans(outbox)["BTCUSDT"]] == [2]
    outbox.acknowledge()
    found = []
    while outbox:
        found += [int(number) for number in seqs(outbox, 4)]
        outbox.acknowledge()
    assert found == list(range(3, 3 + len(found)))


def test_watermarks_go_before_trades_and_leave_no_gap() -> None:
    outbox = an_outbox(60_000)
    for number in range(12):
        outbox.put(FEED, trades([number]))
        outbox.put(FEED, watermark_entry("A", ["BTCUSDT"], number))
    while not outbox._stats.counters.get("dropped_watermarks"):
        outbox.put(FEED, trades([outbox._last]))
    assert outbox.dropped == {}
    watermarks = [fields["time"] for _, fields in outbox.head(100, 1 << 20) if fields["kind"] == "watermark"]
    assert watermarks
    assert "0" not in watermarks, "the oldest one went"


def test_witnesses_go_before_trades_however_long_redis_is_away() -> None:
    outbox = an_outbox(60_000)
    (witness,) = witness_entries([Witness("BTCUSDT", 7, 1)], ids=TRADE_IDS, source=BY_STREAM)
    outbox.put(FEED, trades([1]))
    for _ in range(100):
        outbox.put(FEED, dict(witness))
    assert outbox.bytes <= 60_000
    assert outbox.dropped == {}
    assert outbox._stats.counters["dropped_witnesses"] == 100 - (len(outbox) - 1)


def test_what_waited_too_long_is_dropped_however_little_it_is() -> None:
    time = Time()
    outbox = an_outbox(1 << 20, 10, time)
    for second in range(30):
        time.ms = second * 1000.0
        outbox.put(FEED, trades([second]))
        outbox.put(FEED, watermark_entry("A", ["BTCUSDT"], second))
    assert spans(outbox) == {"BTCUSDT": [(0, 18)]}
    assert outbox.dropped_ms == 29_000
    assert outbox._stats.counters["dropped_trades"] == 19
    assert outbox._stats.labelled_counters[("dropped_trades", (("stream", FEED),))] == 19
    assert len(outbox) == 22


def test_a_process_that_ends_with_trades_left_names_them() -> None:
    outbox = an_outbox()
    for number in range(5):
        outbox.put(FEED, trades([number], "币安人生USDT"))
    outbox.head(2, 1 << 20)
    outbox.abandon()
    assert spans(outbox) == {"币安人生USDT": [(0, 4)]}


@pytest.mark.parametrize("seed", range(20))
def test_every_trade_is_written_or_told_as_dropped(seed: int) -> None:
    chance = random.Random(seed)
    outbox, written, numbers = an_outbox(30_000), set[int](), list[int]()
    for number in range(600):
        outbox.put(FEED, trades([number]) if chance.random() < 0.8 else watermark_entry("A", ["BTCUSDT"], number))
        if chance.random() < 0.08:
            taken = outbox.head(chance.randint(1, 8), 20_000)
            for _, fields in taken if chance.random() < 0.7 else []:
                written |= {int(fields["id"])} if fields["kind"] == "trades" else set()
                numbers.append(int(fields["seq"]))
            if numbers and taken and int(taken[-1][1]["seq"]) == numbers[-1]:
                outbox.acknowledge()
    while outbox:
        for _, fields in outbox.head(8, 20_000):
            written |= {int(fields["id"])} if fields["kind"] == "trades" else set()
            numbers.append(int(fields["seq"]))
        outbox.acknowledge()
    told = {each for low, high in spans(outbox).get("BTCUSDT", []) for each in range(low, high + 1)}
    assert numbers == list(range(1, len(numbers) + 1))
    assert written
    assert told
    ranges = outbox.dropped[FEED].symbols["BTCUSDT"]
    assert not ranges.exact or not written & told
    assert outbox._stats.counters["dropped_trades"] == ranges.count
    assert outbox.bytes == 0


def test_bytes_are_given_back() -> None:
    outbox = an_outbox()
    for _ in range(3):
        outbox.put("k", {"symbol": "币安人生USDT" * 50})
    assert outbox.bytes > 3 * 2 * 50 * 8
    outbox.head(3, 1 << 20)
    outbox.acknowledge()
    assert (outbox.bytes, len(outbox)) == (0, 0)


def test_a_put_wakes_the_sender() -> None:
    woken: list[int] = []
    outbox = Outbox("w", 1 << 20, 120, Stats(), on_put=lambda: woken.append(1))
    outbox.put("k", {})
    outbox.put("k", {})
    assert woken == [1, 1]
