"""What must hold within a bar, and the fold of minutes against one that is done at once."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest

from auditors.bars import BarValues, MinuteFold, faults_of, text_of_kline
from klagg.errors import ContractError
from klagg.intervals import MINUTE_MS, interval
from klagg.kline import Kline
from klagg.wire.fields import stamp
from klagg.wire.klines import kline_of
from tests.aggregator.kit import T0

GOOD = Kline(
    "BTCUSDT",
    "1m",
    T0,
    T0 + MINUTE_MS - 1,
    "10.00",
    "12.00",
    "9.00",
    "11.00",
    "3.000",
    "31.50000",
    4,
    "1.000",
    "12.00000",
    5,
    7,
    50,
    53,
    1,
    0,
    1,
    1,
    "own",
    "",
)


def kinds(kline: Kline) -> list[str]:
    return [kind for kind, _ in faults_of(kline, BarValues.of_text(text_of_kline(kline)))]


def test_a_good_bar_has_no_fault() -> None:
    assert kinds(GOOD) == []
    assert kline_of({name.encode(): text.encode() for name, text in stamp(GOOD.to_fields(), "a", 1).items()}) == GOOD


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"high": "10.50"}, "INVARIANT"),
        ({"low": "10.50"}, "INVARIANT"),
        ({"taker_buy_volume": "3.001"}, "INVARIANT"),
        ({"volume": "0.000"}, "INVARIANT"),
        ({"trades": 5}, "INVARIANT"),
        ({"trades": -1}, "INVARIANT"),
        ({"first_agg_id": 8}, "INVARIANT"),
        ({"first_trade_id": -1}, "INVARIANT"),
        ({"trades": 0}, "INVARIANT"),
        ({"quote_volume": "36.00001"}, "INVARIANT"),
        ({"quote_volume": "26.99999"}, "INVARIANT"),
        ({"high": "12.0"}, "SCALE"),
        ({"quote_volume": "31.5000"}, "SCALE"),
        ({"taker_buy_volume": "1"}, "SCALE"),
        ({"close_time": T0 + MINUTE_MS}, "ALIGNMENT"),
        ({"open_time": T0 + 1}, "ALIGNMENT"),
        ({"interval": "7m"}, "MALFORMED"),
        ({"revision": 0}, "MALFORMED"),
        ({"source": "mine"}, "MALFORMED"),
        ({"complete": 2}, "MALFORMED"),
        ({"official": 1}, "MALFORMED"),
        ({"source": "mixed"}, "INVARIANT"),
        ({"source": "exchange"}, "INVARIANT"),
        ({"complete": 0, "official": 1}, "INVARIANT"),
    ],
)
def test_every_contradiction_is_seen(changes: dict[str, object], kind: str) -> None:
    assert kind in kinds(replace(GOOD, **changes))  # type: ignore[arg-type]


def test_the_exchange_s_bars_have_no_ids() -> None:
    ids = dict.fromkeys(("first_agg_id", "last_agg_id", "first_trade_id", "last_trade_id"), -1)
    assert kinds(replace(GOOD, source="exchange", complete=0, official=1, **ids)) == []  # type: ignore[arg-type]


@pytest.mark.parametrize(("open_time", "good"), [("2024-07-01", True), ("2024-07-04", False), ("2024-06-30", False)])
def test_weeks_begin_on_mondays(open_time: str, good: bool) -> None:
    opening = int(np.datetime64(open_time, "ms").astype(np.int64))
    kline = replace(GOOD, interval="1w", open_time=opening, close_time=opening + 7 * 86_400_000 - 1)
    assert (kinds(kline) == []) is good


@pytest.mark.parametrize(("month", "days"), [("2024-07", 31), ("2024-06", 30), ("2024-02", 29), ("2023-02", 28)])
def test_months_have_their_days(month: str, days: int) -> None:
    opening = int(np.datetime64(month, "ms").astype(np.int64))
    for count in range(27, 33):
        kline = replace(GOOD, interval="1M", open_time=opening, close_time=opening + count * 86_400_000 - 1)
        assert (kinds(kline) == []) is (count == days)


@pytest.mark.parametrize("text", ["NaN", "1e5", "-1", "", "1.", ".5", "١"])
def test_what_is_no_decimal_is_refused(text: str) -> None:
    fields = stamp({**GOOD.to_fields(), "close": text}, "a", 1)
    with pytest.raises(ContractError):
        kline_of({name.encode(): value.encode() for name, value in fields.items()})


def minutes(rng: random.Random, count: int) -> list[BarValues]:
    """Consecutive minutes of own trades, some empty, each beginning where the one before closed."""
    made, price, agg, fill = [], Decimal(100), 10, 30
    for _ in range(count):
        if rng.random() < 0.3:
            zero = Decimal(0)
            made.append(
                BarValues(1, 1, 1, 0, price, price, price, price, zero, zero, 0, zero, zero, -1, -1, -1, -1, "own")
            )
            continue
        prices = [Decimal(rng.randrange(90, 110)) for _ in range(rng.randrange(1, 5))]
        volume = Decimal(len(prices))
        made.append(
            BarValues(
                1,
                1,
                1,
                0,
                prices[0],
                max(prices),
                min(prices),
                prices[-1],
                volume,
                sum(prices, Decimal(0)),
                len(prices),
                Decimal(1),
                prices[0],
                agg,
                agg + len(prices) - 1,
                fill,
                fill + len(prices) - 1,
                "own",
            )
        )
        price, agg, fill = prices[-1], agg + len(prices), fill + len(prices) + 2
    return made


def at_once(bars: list[BarValues]) -> BarValues:
    """The slow oracle."""
    solid = [bar for bar in bars if not bar.empty]
    if not solid:
        return bars[-1]
    sums = [
        sum((getattr(bar, name) for bar in solid), Decimal(0))
        for name in ("volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume")
    ]
    return BarValues(
        1,
        1,
        1,
        0,
        solid[0].open,
        max(bar.high for bar in solid),
        min(bar.low for bar in solid),
        solid[-1].close,
        sums[0],
        sums[1],
        sum(bar.trades for bar in solid),
        sums[2],
        sums[3],
        solid[0].first_agg_id,
        solid[-1].last_agg_id,
        min(bar.first_trade_id for bar in solid),
        max(bar.last_trade_id for bar in solid),
        "own",
    )


@pytest.mark.parametrize("seed", range(40))
def test_a_fold_in_any_order_is_the_fold_at_once(seed: int) -> None:
    """Minutes come in any order, some in two versions (empty first, or without their last trades), with restarts."""
    rng = random.Random(seed)
    bars = minutes(rng, rng.randrange(1, 12))
    five = interval("5m").open_time(T0)
    fold = MinuteFold(five)
    order = list(range(len(bars)))
    rng.shuffle(order)
    for number in order:
        final, before = bars[number], None
        if rng.random() < 0.5 and not final.empty:
            zero = Decimal(0)
            price = final.open
            before = BarValues(1, 1, 0, 0, price, price, price, price, zero, zero, 0, zero, zero, -1, -1, -1, -1, "own")
            fold.add(five + number * MINUTE_MS, None, before)
        fold = MinuteFold.of_json(json.loads(json.dumps(fold.to_json())))
        fold.add(five + number * MINUTE_MS, before, final)
    wanted = at_once(bars)
    if wanted.empty:
        wanted = bars[-1]
        fold.add(five + (len(bars) - 1) * MINUTE_MS, bars[-1], bars[-1])
    assert fold.differences(wanted) == []
    assert (fold.count, fold.known) == (len(bars), True)
    wrong = replace(wanted, volume=wanted.volume + Decimal("0.001"))
    assert fold.differences(wrong) == [f"volume {wrong.volume} instead of {wanted.volume}"]


def test_a_fold_whose_trades_vanish_is_not_known_any_more() -> None:
    bar = next(bar for bar in minutes(random.Random(1), 9) if not bar.empty)
    fold = MinuteFold(T0)
    fold.add(T0, None, bar)
    zero = Decimal(0)
    gone = BarValues(
        1, 2, 1, 0, bar.open, bar.open, bar.open, bar.open, zero, zero, 0, zero, zero, -1, -1, -1, -1, "own"
    )
    fold.add(T0, bar, gone)
    assert not fold.known
