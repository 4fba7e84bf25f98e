"""From close to final and to proof, in exchange time."""

from __future__ import annotations

from klagg.process.histograms import BOUNDS_MS, BUCKETS
from klagg.wire.entries import tick_entry
from tests.aggregator.kit import T0, feed, new_core, raw, tick, trade, watermark

MINUTE = 60_000


def at(delay_ms: int) -> list[int]:
    """The counts of one bar with this delay."""
    bucket = next((number for number, bound in enumerate(BOUNDS_MS) if delay_ms <= bound), BUCKETS - 1)
    return [int(number == bucket) for number in range(BUCKETS)]


def test_a_bar_that_a_trade_closes_is_final_and_proven_at_once() -> None:
    core = new_core("1m", "1h")
    feed(core, [trade(1, T0 + 1000), trade(2, T0 + MINUTE + 100)])
    tick(core, T0 + MINUTE + 250)
    assert core.freshness.to_final[0].counts == core.freshness.to_proof[0].counts == at(250)
    assert core.freshness.to_final[0].total_ms == 250
    assert not any(core.freshness.to_final[1].counts)


def test_a_quiet_bar_is_final_after_the_grace_and_proven_by_the_next_trade_once() -> None:
    core = new_core("1m")
    feed(core, [trade(1, T0 + 1000)])
    for quarter in range(4 * 95):
        watermark(core, T0 + quarter * 250)
        tick(core, T0 + quarter * 250)
    assert sum(core.freshness.to_final[0].counts) == 1
    assert not any(core.freshness.to_proof[0].counts)
    feed(core, [trade(2, T0 + 100_000)])
    tick(core, T0 + 101_000)
    assert core.freshness.to_proof[0].counts == at(41_000)
    feed(core, [trade(3, T0 + 102_000)])
    tick(core, T0 + 103_000)
    assert sum(core.freshness.to_final[0].counts) == sum(core.freshness.to_proof[0].counts) == 1


def test_bars_of_a_long_jump_count_to_its_end() -> None:
    core = new_core("1m")
    feed(core, [trade(1, T0 + 1000)])
    tick(core, T0 + 2000)
    feed(core, [trade(2, T0 + 10 * MINUTE)])
    tick(core, T0 + 10 * MINUTE)
    assert sum(core.freshness.to_final[0].counts) == 10
    assert core.freshness.to_final[0].total_ms == sum(range(10)) * MINUTE


def test_what_is_not_published_is_not_counted() -> None:
    core = new_core("1m")
    feed(core, [trade(1, T0 + 1000), trade(2, T0 + MINUTE + 100)])
    for _ in core.apply("1-1", raw(tick_entry(T0 + MINUTE + 250))):
        pass
    assert not any(core.freshness.to_final[0].counts)
