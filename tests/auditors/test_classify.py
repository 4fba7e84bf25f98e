"""Why our klines differ from the exchange's: fills on both sides of a close, and everything that is no such thing."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from auditors.classify import EDGE_SHIFT, EXACT, LATE, LATE_MS, Comparison
from klagg.edge_splits import edges_of, values_of
from klagg.errors import ContractError
from klagg.intervals import INTERVALS, MINUTE, MINUTE_MS, Interval
from klagg.kline import Kline, Values
from klagg.wire.entries import TradeRow
from klagg.wire.findings import FindingKind
from tests.aggregator.kit import T0, feed, klines, new_core, newest, tick

LASTING = 30
"""Minutes of a market."""


@dataclass(frozen=True, slots=True)
class Fill:
    """One fill, at its own time."""

    id: int
    time: int
    price: Decimal
    qty: Decimal
    maker: bool


def market(seed: int) -> tuple[list[TradeRow], list[Fill]]:
    """AggTrades with the time of their first fill, many of them next to a close, and their fills at times of their own;
    fills come in order of time, as the exchange numbers them."""
    rng = random.Random(seed)
    rows, fills, number, fill_id, price = [], [], 1, 1, 10_000
    starts = sorted(
        T0 + rng.randrange(LASTING * MINUTE_MS)
        if rng.random() < 0.6
        else T0 + rng.randrange(1, LASTING) * MINUTE_MS - rng.randrange(1, 60)
        for _ in range(400)
    )
    for at, start in enumerate(starts):
        price += rng.randrange(-5, 6)
        until = min(start + 99, starts[at + 1] if at + 1 < len(starts) else start + 99)
        times = sorted([start, *(rng.randrange(start, until + 1) for _ in range(rng.choice((0, 0, 1, 3))))])
        qtys = [Decimal(rng.randrange(1, 500)).scaleb(-3) for _ in times]
        maker, value = rng.random() < 0.5, Decimal(price).scaleb(-2)
        fills += [
            Fill(fill_id + n, time, value, qty, maker) for n, (time, qty) in enumerate(zip(times, qtys, strict=True))
        ]
        rows.append(
            TradeRow("BTCUSDT", number, str(value), str(sum(qtys)), fill_id, fill_id + len(times) - 1, start, maker)
        )
        number, fill_id = number + 1, fill_id + len(times)
    return rows, fills


def official(fills: list[Fill]) -> dict[int, Values]:
    """What the exchange says: it folds fills, by their own times."""
    found: dict[int, Values] = {}
    for opening in range(T0, T0 + LASTING * MINUTE_MS, MINUTE_MS):
        inside = [each for each in fills if opening <= each.time < opening + MINUTE_MS]
        before = [each for each in fills if each.time < opening]
        if not inside and not before:
            continue
        prices = [each.price for each in inside] or [before[-1].price]
        taken = [each for each in inside if not each.maker]
        found[opening] = {
            "open": prices[0],
            "high": max(prices),
            "low": min(prices),
            "close": prices[-1],
            "trades": len(inside),
            "volume": sum((each.qty for each in inside), Decimal(0)),
            "quote_volume": sum((each.qty * each.price for each in inside), Decimal(0)),
            "taker_buy_volume": sum((each.qty for each in taken), Decimal(0)),
            "taker_buy_quote_volume": sum((each.qty * each.price for each in taken), Decimal(0)),
        }
    return found


def folded(rows: list[TradeRow]) -> dict[int, Kline]:
    """What the aggregator says, all of it proven."""
    core = new_core("1m")
    end_ms = T0 + LASTING * MINUTE_MS
    first = TradeRow("BTCUSDT", 1, "100", "1", 0, 0, T0 - 2 * MINUTE_MS, False)
    feed(core, [first, *(replace(row, id=row.id + 1) for row in rows)])
    feed(core, [TradeRow("BTCUSDT", len(rows) + 2, "100", "1", 10**9, 10**9, end_ms + 1, False)])
    said = [tick(core, time_ms) for time_ms in range(T0, end_ms + MINUTE_MS, MINUTE_MS)]
    return {kline.open_time: kline for kline in newest(klines(said)).values() if T0 <= kline.open_time < end_ms}


def verdicts(ours: dict[int, Kline], theirs: dict[int, Values], now_ms: int | None = None) -> Counter[str]:
    found = Comparison(MINUTE, ours, theirs, now_ms).verdicts(T0, T0 + LASTING * MINUTE_MS)
    assert all(each.evidence for each in found if each.kind != EXACT)
    return Counter(each.kind for each in found)


@pytest.mark.parametrize("seed", range(12))
def test_every_shift_over_a_close_is_proven(seed: int) -> None:
    rows, fills = market(seed)
    found = verdicts(folded(rows), official(fills))
    assert found.keys() == {EXACT, EDGE_SHIFT}
    assert found.total() == LASTING
    assert found[EDGE_SHIFT] > 5


@pytest.mark.parametrize(
    ("name", "by"),
    [
        ("volume", "0.001"),
        ("quote_volume", "0.01"),
        ("trades", "1"),
        ("taker_buy_volume", "0.001"),
        ("high", "1"),
        ("low", "-1"),
        ("open", "0.01"),
        ("close", "0.01"),
    ],
)
@pytest.mark.parametrize("seed", range(4))
def test_what_is_no_shift_is_not_called_one(name: str, by: str, seed: int) -> None:
    """One value of one bar of the exchange is off, in a market full of shifts."""
    rows, fills = market(seed)
    ours, theirs = folded(rows), official(fills)
    for opening in (T0 + 7 * MINUTE_MS, T0 + 16 * MINUTE_MS):
        held = theirs[opening][name]
        assert held is not None
        off = {**theirs, opening: {**theirs[opening], name: type(held)(held + Decimal(by))}}
        found = Comparison(MINUTE, ours, off).verdicts(T0, T0 + LASTING * MINUTE_MS)
        assert any(
            each.kind == FindingKind.UNEXPLAINED and abs(each.open_time - opening) <= 3 * MINUTE_MS for each in found
        )


@pytest.mark.parametrize("seed", range(12))
def test_where_the_exchange_s_rows_begin_and_end_one_side_has_to_do(seed: int) -> None:
    """A file that begins and ends at any minute, but not at one into which and out of which fills were shifted: there,
    the sum does not tell what came."""
    rows, fills = market(seed)
    ours, theirs = folded(rows), official(fills)
    whole = {each.open_time: each.evidence for each in Comparison(MINUTE, ours, theirs).verdicts(T0, T0 + 10**9)}
    tried = 0
    for first in range(1, LASTING - 5):
        part = {at: theirs[at] for at in theirs if T0 + first * MINUTE_MS <= at < T0 + (first + 4) * MINUTE_MS}
        if "in from" in whole[min(part)] and "out to" in whole[min(part)]:
            continue
        tried += 1
        found = Comparison(MINUTE, ours, part).verdicts(min(part), max(part) + 1)
        assert {each.kind for each in found} <= {EXACT, EDGE_SHIFT}
    assert tried > 5


def test_without_the_evidence_a_shift_is_unexplained() -> None:
    rows, fills = market(1)
    ours = {opening: replace(kline, edge="") for opening, kline in folded(rows).items()}
    found = verdicts(ours, official(fills))
    assert found[EDGE_SHIFT] == 0
    assert found[FindingKind.UNEXPLAINED] > 5


def altered(values: Values, **changes: Any) -> Values:
    return {**values, **changes}


FLAT = {name: Decimal(0) for name in ("volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume")}


def plain() -> tuple[dict[int, Kline], dict[int, Values], int]:
    """Equal on both sides, and a minute with trades in the middle."""
    rows, _ = market(2)
    ours = {opening: replace(kline, edge="") for opening, kline in folded(rows).items()}
    return ours, {opening: values_of(kline) for opening, kline in ours.items()}, T0 + 9 * MINUTE_MS


def test_equal_klines_are_exact() -> None:
    ours, theirs, _ = plain()
    assert verdicts(ours, theirs) == {EXACT: LASTING}


def gap(ours: dict[int, Kline], theirs: dict[int, Values], at: int) -> None:
    theirs[at] = altered(theirs[at], trades=0, **FLAT)


def no_row(ours: dict[int, Kline], theirs: dict[int, Values], at: int) -> None:
    del theirs[at]


def no_bar(ours: dict[int, Kline], theirs: dict[int, Values], at: int) -> None:
    del ours[at]


def neither(ours: dict[int, Kline], theirs: dict[int, Values], at: int) -> None:
    del ours[at], theirs[at]


def incomplete(ours: dict[int, Kline], theirs: dict[int, Values], at: int) -> None:
    ours[at] = replace(ours[at], complete=0, volume="0.001")


def lost_trade(ours: dict[int, Kline], theirs: dict[int, Values], at: int) -> None:
    ours[at] = replace(ours[at], trades=ours[at].trades - 1)


@pytest.mark.parametrize(
    ("plant", "kind"),
    [
        (gap, FindingKind.EXCHANGE_GAP),
        (no_row, FindingKind.EXCHANGE_GAP),
        (no_bar, FindingKind.LOCAL_GAP),
        (neither, FindingKind.LOCAL_GAP),
        (incomplete, FindingKind.LOCAL_GAP),
        (lost_trade, FindingKind.UNEXPLAINED),
    ],
)
def test_a_difference_has_its_class(
    plant: Callable[[dict[int, Kline], dict[int, Values], int], None], kind: str
) -> None:
    ours, theirs, at = plain()
    plant(ours, theirs, at)
    assert verdicts(ours, theirs) == {EXACT: LASTING - 1, kind: 1}


@pytest.mark.parametrize("plant", [gap, no_row])
def test_what_the_exchange_has_not_finished_is_late(
    plant: Callable[[dict[int, Kline], dict[int, Values], int], None],
) -> None:
    """A minute later it is a gap."""
    ours, theirs, _ = plain()
    at = T0 + (LASTING - 1) * MINUTE_MS
    plant(ours, theirs, at)
    if at not in theirs:
        theirs[at + MINUTE_MS] = altered(values_of(ours[at]))
        ours[at + MINUTE_MS] = replace(ours[at], open_time=at + MINUTE_MS, close_time=at + 2 * MINUTE_MS - 1)
    assert verdicts(ours, theirs, at + MINUTE_MS + 5_000)[LATE] == 1
    assert verdicts(ours, theirs, at + MINUTE_MS + LATE_MS)[FindingKind.EXCHANGE_GAP] == 1


def test_a_shift_into_a_row_that_is_not_final_is_late() -> None:
    """The exchange has taken the fills out of one bar, and the next is not there yet."""
    rows, fills = market(3)
    ours, theirs = folded(rows), official(fills)
    found = Comparison(MINUTE, ours, theirs).verdicts(T0, T0 + LASTING * MINUTE_MS)
    one = next(
        each
        for each, after in pairwise(found)
        if (each.kind, after.kind) == (EDGE_SHIFT,) * 2 and "out to the next bar" in each.evidence
    )
    following = one.open_time + MINUTE_MS
    del theirs[following]
    theirs = {opening: values for opening, values in theirs.items() if opening <= following}
    ours = {opening: kline for opening, kline in ours.items() if opening <= following}
    now_ms = following + MINUTE_MS + 1_000
    kinds = {each.open_time: each.kind for each in Comparison(MINUTE, ours, theirs, now_ms).verdicts(T0, following + 1)}
    assert (kinds[one.open_time], kinds[following]) == (LATE, LATE)


def test_nothing_on_either_side() -> None:
    assert Comparison(MINUTE, {}, {}).verdicts(T0, T0 + MINUTE_MS) == []


def test_evidence_that_is_none() -> None:
    ours, _, at = plain()
    with pytest.raises(ContractError, match="edge evidence has 2 parts"):
        edges_of(replace(ours[at], edge="1:2"))


@pytest.mark.parametrize("seed", range(6))
def test_a_bar_that_only_waits_for_its_proof_may_be_shifted(seed: int) -> None:
    """That of a quiet symbol waits for the next trade; what it differs by is a shift all the same."""
    rows, fills = market(seed)
    ours = folded(rows)
    waiting = {opening: replace(kline, complete=0) for opening, kline in ours.items()}
    found = verdicts(waiting, official(fills))
    assert found == verdicts(ours, official(fills))
    assert found.keys() == {EXACT, EDGE_SHIFT}


def test_beside_a_gap_a_shift_is_still_one() -> None:
    """The fills that left a bar went into one that is not complete."""
    rows, fills = market(1)
    ours, theirs = folded(rows), official(fills)
    found = Comparison(MINUTE, ours, theirs).verdicts(T0, T0 + LASTING * MINUTE_MS)
    shifted = next(each.open_time for each in found if "out to the next bar" in each.evidence)
    gap = shifted + MINUTE_MS
    ours[gap] = replace(ours[gap], complete=0, trades=0, volume="0", edge="")
    kinds = {each.open_time: each.kind for each in Comparison(MINUTE, ours, theirs).verdicts(T0, gap + MINUTE_MS)}
    assert (kinds[shifted], kinds[gap]) == (EDGE_SHIFT, FindingKind.LOCAL_GAP)


def one_fill_shifted(interval: Interval = MINUTE) -> tuple[dict[int, Kline], dict[int, Values], int]:
    """Two bars of one aggTrade at the close of the first, whose second fill the exchange counts in the second."""
    ours, _, _ = plain()
    step = interval.length_ms
    opening = interval.open_time(T0)
    kline = replace(ours[T0], interval=interval.name, edge="")
    filled: dict[str, Any] = {
        "open": "100.00",
        "high": "100.00",
        "low": "100.00",
        "close": "100.00",
        "complete": 1,
        "source": "own",
    }
    first = replace(
        kline,
        open_time=opening,
        close_time=opening + step - 1,
        volume="3.000",
        quote_volume="300.00000",
        trades=3,
        taker_buy_volume="3.000",
        taker_buy_quote_volume="300.00000",
        edge=f"7:20:21:{opening + step - 1}:100.00:2.000:0",
        **filled,
    )
    second = replace(
        kline,
        open_time=opening + step,
        close_time=opening + 2 * step - 1,
        volume="1.000",
        quote_volume="100.00000",
        trades=1,
        taker_buy_volume="0.000",
        taker_buy_quote_volume="0.00000",
        **filled,
    )
    moved = {"volume": 1, "quote_volume": 100, "trades": 1, "taker_buy_volume": 1, "taker_buy_quote_volume": 100}
    theirs: dict[int, Values] = {
        opening: {name: (value or 0) - moved.get(name, 0) for name, value in values_of(first).items()},
        opening + step: {name: (value or 0) + moved.get(name, 0) for name, value in values_of(second).items()},
    }
    return {opening: first, opening + step: second}, theirs, opening


@pytest.mark.parametrize("name", ["1m", "5m", "1h", "1d"])
def test_a_bar_behind_a_missing_one_is_explained_by_it(name: str) -> None:
    interval = INTERVALS[name]
    ours, theirs, opening = one_fill_shifted(interval)
    until = opening + 2 * interval.length_ms
    assert [each.kind for each in Comparison(interval, ours, theirs).verdicts(opening, until)] == [EDGE_SHIFT] * 2
    del ours[opening]
    found = Comparison(interval, ours, theirs).verdicts(opening, until)
    assert [each.kind for each in found] == [FindingKind.LOCAL_GAP, EDGE_SHIFT]
    assert "never seen" in found[1].evidence


def test_a_bar_before_a_missing_one_is_explained_by_its_edge() -> None:
    ours, theirs, opening = one_fill_shifted()
    del ours[opening + MINUTE_MS]
    found = Comparison(MINUTE, ours, theirs).verdicts(opening, opening + 2 * MINUTE_MS)
    assert [each.kind for each in found] == [EDGE_SHIFT, FindingKind.LOCAL_GAP]


def test_a_look_that_begins_behind_a_missing_bar_explains_it_too() -> None:
    """The auditor asks for one row before those that it judges."""
    ours, theirs, opening = one_fill_shifted()
    del ours[opening]
    found = Comparison(MINUTE, ours, theirs).verdicts(opening + MINUTE_MS, opening + 2 * MINUTE_MS)
    assert [each.kind for each in found] == [EDGE_SHIFT]


def test_a_bar_behind_one_that_lacks_trades_is_explained_by_it() -> None:
    ours, theirs, opening = one_fill_shifted()
    ours[opening] = replace(
        ours[opening],
        complete=0,
        volume="1.000",
        quote_volume="100.00000",
        trades=1,
        taker_buy_volume="1.000",
        taker_buy_quote_volume="100.00000",
        edge="",
    )
    found = Comparison(MINUTE, ours, theirs).verdicts(opening, opening + 2 * MINUTE_MS)
    assert [each.kind for each in found] == [FindingKind.LOCAL_GAP, EDGE_SHIFT]


@pytest.mark.parametrize(
    ("name", "by"),
    [("volume", "-1.5"), ("trades", "-2"), ("close", "0.01"), ("low", "0.01"), ("high", "-0.01")],
)
def test_not_everything_behind_a_missing_bar_is_explained_by_it(name: str, by: str) -> None:
    """What no fill that came in can cause stays an error."""
    ours, theirs, opening = one_fill_shifted()
    held = theirs[opening + MINUTE_MS][name]
    assert held is not None
    theirs[opening + MINUTE_MS] = altered(theirs[opening + MINUTE_MS], **{name: held + Decimal(by)})
    del ours[opening]
    found = Comparison(MINUTE, ours, theirs).verdicts(opening, opening + 2 * MINUTE_MS)
    assert [each.kind for each in found] == [FindingKind.LOCAL_GAP, FindingKind.UNEXPLAINED]


@example(seed=11, missing={12})  # what came into bar 13 and what left it have one price
@given(seed=st.integers(0, 40), missing=st.sets(st.integers(0, LASTING - 1), min_size=1, max_size=10))
def test_behind_missing_bars_nothing_becomes_unexplained(seed: int, missing: set[int]) -> None:
    """Whatever bars of a market full of shifts are missing, one or runs of them."""
    ours, theirs = _market_of(seed)
    gone = {T0 + number * MINUTE_MS for number in missing}
    left = {opening: kline for opening, kline in ours.items() if opening not in gone}
    found = {each.open_time: each for each in Comparison(MINUTE, left, theirs).verdicts(T0, T0 + LASTING * MINUTE_MS)}
    assert not [each for each in found.values() if each.kind == FindingKind.UNEXPLAINED]
    assert {opening for opening in gone if opening in theirs} <= {
        opening for opening, each in found.items() if each.kind == FindingKind.LOCAL_GAP
    }
    whole = {each.open_time: each.kind for each in Comparison(MINUTE, ours, theirs).verdicts(T0, T0 + 10**9)}
    for opening, each in found.items():
        if opening not in gone and each.kind == FindingKind.LOCAL_GAP:
            assert whole[opening] == EDGE_SHIFT, "only what is shifted is a part of a missing bar's gap"


@cache
def _market_of(seed: int) -> tuple[dict[int, Kline], dict[int, Values]]:
    rows, fills = market(seed)
    return folded(rows), official(fills)
