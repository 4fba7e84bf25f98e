"""When batches are delivered, what is counted of them, and which rejections are logged."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from ingest.intake import QUIET_MS, SAMPLE_CHARACTERS, Intake, RejectionSampler
from ingest.outbox import Outbox
from ingest.parser import Rejection
from klagg.clock import ExchangeClock, steady_ms
from klagg.process.stats import Stats
from tests.ingest.kit import NOW_MS, SYMBOLS, agg_trade, frame_of, rules
from tests.kit import eventually_async as eventually


def bad(kind: str = "bad_price", frame: bytes = b'{"p":"abc"}') -> Rejection:
    return Rejection(kind, "not a plain decimal", frame)


def test_the_first_of_each_kind_is_said() -> None:
    sampler = RejectionSampler()
    assert sampler.sentence(bad(), 0.0) == ('rejected a message, bad_price: not a plain decimal: \'{"p":"abc"}\'')
    assert sampler.sentence(bad("bad_qty"), 1.0).startswith("rejected a message, bad_qty: ")


def test_then_one_in_ten_seconds_with_the_number_of_the_others() -> None:
    sampler = RejectionSampler()
    assert sampler.sentence(bad(), 0.0)
    assert [sampler.sentence(bad(), float(each)) for each in range(1, 8)] == [""] * 7
    assert "(and 7 more of this kind since the last one shown)" in sampler.sentence(bad(), QUIET_MS)
    assert sampler.sentence(bad(), QUIET_MS + 1) == ""
    assert "more" not in sampler.sentence(bad("other"), QUIET_MS + 1)


def test_a_clock_that_was_set_back_does_not_silence_it() -> None:
    sampler = RejectionSampler()
    assert sampler.sentence(bad(), 1e9)
    assert sampler.sentence(bad(), 0.0)


def test_samples_are_short_and_harmless() -> None:
    sentence = RejectionSampler().sentence(bad(frame=b"\x1b[31m\n\xff\x00" * 10_000), 0.0)
    assert len(sentence) < SAMPLE_CHARACTERS + 100
    assert sentence.isprintable()


class Line:
    """An intake, its outbox and what it counted; its clock is the exchange's, which shows NOW_MS now."""

    def __init__(self, batch_ms: int = 10_000, batch_rows: int = 512, shards: int = 1) -> None:
        self.stats = Stats()
        self.outbox = Outbox("w@1", 1 << 24, 60.0, self.stats)
        clock = ExchangeClock()
        clock.observe(steady_ms(), steady_ms(), NOW_MS)
        self.intake = Intake(
            rules(),
            self.outbox,
            clock,
            line="A",
            shards=shards,
            batch_ms=batch_ms,
            batch_rows=batch_rows,
            stats=self.stats,
            log=logging.getLogger("test"),
        )

    def delivers(self, entries: int) -> Callable[[], bool]:
        """Whether so many entries are in the outbox."""
        return lambda: len(self.outbox) == entries

    def queued(self) -> list[tuple[str, str]]:
        """Kind and ids (of watermarks the symbols) of what is in the outbox."""
        entries = [fields for _, fields in self.outbox.head(1000, 1 << 30)]
        return [(each["kind"], each["id"] if each["kind"] == "trades" else each["symbols"]) for each in entries]


@asynccontextmanager
async def timing(intake: Intake) -> AsyncIterator[None]:
    """The timer of batches, running."""
    task = asyncio.create_task(intake.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_batch_is_delivered_when_its_time_is_up() -> None:
    line = Line(batch_ms=20)
    async with timing(line.intake):
        for number in (1, 2):
            began_ms = steady_ms()
            line.intake.receive(frame_of(agg_trade(number)))
            await eventually(line.delivers(number))
            assert steady_ms() - began_ms >= 20
    assert line.queued() == [("trades", "1"), ("trades", "2")]


async def test_a_full_batch_is_delivered_at_once_and_the_rest_in_time() -> None:
    line = Line(batch_ms=20, batch_rows=2)
    async with timing(line.intake):
        for number in range(5):
            line.intake.receive(frame_of(agg_trade(number)))
        assert line.queued() == [("trades", "0,1"), ("trades", "2,3")]
        await eventually(line.delivers(3))
    assert line.queued()[2] == ("trades", "4")


def test_a_watermark_stands_behind_the_trades_before_it() -> None:
    line = Line()
    line.intake.receive(frame_of(agg_trade(7)))
    line.intake.watermark({0: SYMBOLS[:2]}, NOW_MS)
    assert line.queued() == [("trades", "7"), ("watermark", ",".join(SYMBOLS[:2]))]


def test_what_came_is_counted_and_sampled(caplog: pytest.LogCaptureFixture) -> None:
    line = Line()
    frames = [frame_of(agg_trade(1)), frame_of(agg_trade(2, s=SYMBOLS[1])), b"?", b'{"result":null,"id":1}']
    for frame in [*frames, b'{"error":{"code":2,"msg":"Invalid request"},"id":2}']:
        line.intake.receive(frame)
    line.intake.flush()
    counters = line.stats.counters
    assert (counters["messages"], counters["trades"], counters["rejected"], counters["replies"]) == (5, 2, 1, 2)
    assert line.stats.labelled_counters["rejected", (("kind", "not_json"),)] == 1
    assert line.intake.drain_counts() == {SYMBOLS[0]: 1, SYMBOLS[1]: 1}
    assert line.intake.drain_counts() == {}
    assert line.intake.latest[SYMBOLS[0]] == (NOW_MS - 200, "85266.00", "0.158")
    logged = [record.getMessage() for record in caplog.records]
    assert [each for each in logged if each.startswith("the exchange refused a subscription: ")]
    assert [each for each in logged if each.startswith("rejected a message, not_json: ")]


def test_a_symbol_that_is_admitted_later_is_accepted() -> None:
    line = Line()
    line.intake.admit(["NEWUSDT"])
    line.intake.receive(frame_of(agg_trade(1, s="NEWUSDT")))
    line.intake.flush()
    assert line.queued() == [("trades", "1")]
