"""Finals that somebody lost are published again, as they are."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from aggregator.again import AGAIN_MAX
from aggregator.core import Core
from aggregator.publisher import Outputs
from klagg.intervals import MINUTE_MS
from klagg.wire.entries import AGAIN_PER_ENTRY, BarKey, again_entries, again_of
from klagg.wire.findings import FindingKind
from klagg.wire.klines import is_again
from tests.aggregator.kit import T0, feed, klines, new_core, raw, tick, trade


def ask(core: Core, *bars: BarKey) -> None:
    for entry in again_entries(bars):
        assert not list(core.apply("1-1", raw(entry)))


def after_minutes(count: int, **changes: int) -> tuple[Core, list[Outputs]]:
    """A core that has published this many minutes of one trade each; the next has begun."""
    core = new_core("1m", "5m", **changes)
    said = []
    for number in range(count + 1):
        feed(core, [trade(number + 1, T0 + number * MINUTE_MS + 1_000, price=f"{100 + number}")])
        said.append(tick(core, T0 + number * MINUTE_MS + 2_000))
    return core, said


def test_a_final_is_said_again_in_its_version() -> None:
    core, said = after_minutes(6)
    first = {kline.key: kline for kline in klines(said)}
    key = "BTCUSDT", "1m", T0 + 2 * MINUTE_MS
    ask(core, key, ("BTCUSDT", "5m", T0), key)
    again = tick(core, T0 + 6 * MINUTE_MS + 3_000)
    assert sorted(klines(again), key=lambda kline: kline.key) == sorted(
        (first[key], first["BTCUSDT", "5m", T0]), key=lambda kline: kline.key
    )
    assert all(is_again(raw(fields)) for fields in again.klines)
    assert not any(is_again(raw(fields)) for each in said for fields in each.klines)
    assert not again.findings
    assert [event["kind"] for event in again.events] == ["tick"]
    assert core.counts.again == 2
    assert not tick(core, T0 + 6 * MINUTE_MS + 4_000).klines, "once"


def test_a_bar_in_progress_or_unknown_is_not_said() -> None:
    core, _ = after_minutes(3)
    now = T0 + 3 * MINUTE_MS
    ask(
        core,
        ("BTCUSDT", "1m", now),
        ("BTCUSDT", "1m", now + MINUTE_MS),
        ("BTCUSDT", "1h", T0),
        ("BTCUSDT", "nonsense", T0),
        ("BTCUSDT", "1m", T0 + 1),
        ("NEVERUSDT", "1m", now + 60 * MINUTE_MS),
    )
    again = tick(core, now + 3_000)
    assert (again.klines, again.findings) == ([], [])


def test_what_is_not_held_any_more_has_a_command() -> None:
    core, _ = after_minutes(40, window_minutes=20)
    ask(core, ("BTCUSDT", "1m", T0 + 2 * MINUTE_MS), ("BTCUSDT", "1m", T0 + 4 * MINUTE_MS))
    (finding,) = tick(core, T0 + 40 * MINUTE_MS + 3_000).findings
    assert (finding["kind"], finding["symbol"]) == (FindingKind.UNREPAIRED, "BTCUSDT")
    assert "2 finals were lost" in finding["evidence"]
    assert (
        "klagg backfill --from 2023-11-14T22:02 --to 2023-11-14T22:05 --symbols BTCUSDT --intervals 1m --again"
        in finding["evidence"]
    )


def test_an_amended_bar_is_said_as_it_is_now() -> None:
    core, _ = after_minutes(3)
    feed(core, [trade(1_000, T0 + MINUTE_MS + 5_000, price="500")])
    feed(core, [trade(1_001, T0 + 3 * MINUTE_MS + 5_000)])
    (amended,) = [kline for kline in klines(tick(core, T0 + 3 * MINUTE_MS + 6_000)) if kline.interval == "1m"]
    ask(core, amended.key)
    assert klines(tick(core, T0 + 3 * MINUTE_MS + 7_000)) == [amended]
    assert amended.revision == 2


@pytest.mark.parametrize(
    "spoil",
    [{"n": "2"}, {"symbol": "A,B"}, {"open_time": "x"}, {"open_time": "-5"}, {"open_time": "9" * 30}],
)
def test_an_entry_that_is_none_goes_to_dead(spoil: dict[str, str]) -> None:
    core, _ = after_minutes(1)
    (entry,) = again_entries([("BTCUSDT", "1m", T0)])
    list(core.apply("1-1", raw(entry | spoil)))
    assert len(tick(core, T0 + MINUTE_MS + 3_000).dead) == 1


def test_too_much_at_once_goes_to_dead() -> None:
    core, _ = after_minutes(1)
    bars: Sequence[BarKey] = [("BTCUSDT", "1m", T0 - number * MINUTE_MS) for number in range(AGAIN_MAX + 1)]
    ask(core, *bars)
    assert len(tick(core, T0 + MINUTE_MS + 3_000).dead) == 1


def test_entries_are_read_as_they_were_written() -> None:
    bars: Sequence[BarKey] = [("币安人生USDT", "1m", T0 + number) for number in range(AGAIN_PER_ENTRY + 3)]
    first, second = again_entries(bars)
    assert [*again_of(raw(first)), *again_of(raw(second))] == bars
    assert again_entries([]) == []
