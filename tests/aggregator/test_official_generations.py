"""Official rows of a name that was listed again in the slot it had: each generation gets its own."""

from __future__ import annotations

import pytest

from aggregator.core import Core
from aggregator.publisher import Outputs
from klagg.intervals import DAY_MS, HOUR_MS, MINUTE_MS
from klagg.kline import Kline
from tests.aggregator.kit import T0, feed, klines, new_core, newest, steps, tick, trade, watermark
from tests.aggregator.listingkit import NAME, list_, listed
from tests.aggregator.officialkit import Row, send

AGAIN = T0 + HOUR_MS + 500
"""The onboard time of the second generation."""


def official(*minutes: tuple[int, str, int]) -> list[Row]:
    """Rows of one price: minutes since T0, price, number of trades."""
    return [
        (T0 + minute * MINUTE_MS, price, price, price, price, f"{count}", f"{count * int(price)}", count, "0", "0")
        for minute, price, count in minutes
    ]


def ended(core: Core) -> list[Outputs]:
    """A first generation that trades twice, misses two trades between, and ends within the hour, everything said."""
    said = [tick(core, T0 - 1000)]
    list_(core, listed())
    feed(core, [trade(500, T0 + 1000, "5"), trade(503, T0 + 70_000, "6")])
    said += [tick(core, T0 + 70_000)]
    list_(core, listed("CLOSE"))
    return [*said, tick(core, T0 + 150_000), tick(core, T0 + 170_000), *steps(core, T0 + HOUR_MS)]


def brief(kline: Kline) -> tuple[int, str, str, str, str, str]:
    return kline.trades, kline.open, kline.high, kline.low, kline.close, kline.standing


@pytest.mark.parametrize("when", range(3))
def test_rows_of_the_generation_before_change_its_bars_alone(when: int) -> None:
    """They come before the first trade of the new one, within its first bar, or when that is closed."""
    core = new_core("1m", "1h")
    said = ended(core)
    list_(core, listed(generation=AGAIN))
    said += [tick(core, AGAIN + 100)]
    parts = ([trade(1, AGAIN + 1000, "7")], [trade(2, AGAIN + 2000, "8")], [trade(3, AGAIN + 60_000, "8")])
    for at, part in enumerate(parts):
        if at == when:
            send(core, NAME, "1m", official((0, "5", 3), (1, "9", 4)), T0, T0 + 3 * MINUTE_MS)
            said += [tick(core, core.time_ms)]
        feed(core, part)
        said += [tick(core, part[0].time)]
    said += steps(core, T0 + 2 * HOUR_MS + 30_000)
    found = {
        ((opening - T0) // MINUTE_MS, name): brief(kline)
        for (_, name, opening), kline in newest(klines(said)).items()
        if kline.trades
    }
    assert found == {
        (0, "1m"): (3, "5.00", "5.00", "5.00", "5.00", "official"),
        (1, "1m"): (4, "9.00", "9.00", "9.00", "9.00", "official"),
        (0, "1h"): (7, "5.00", "9.00", "5.00", "9.00", "waiting"),
        (60, "1m"): (2, "7.00", "8.00", "7.00", "8.00", "complete"),
        (61, "1m"): (1, "8.00", "8.00", "8.00", "8.00", "waiting"),
        (60, "1h"): (3, "7.00", "8.00", "7.00", "8.00", "waiting"),
    }
    # No bar in the time between the generations, and what is empty behind the new one's trades carries their price.
    empty = {
        (opening - T0) // MINUTE_MS: kline.close
        for (_, name, opening), kline in newest(klines(said)).items()
        if not kline.trades and name == "1m"
    }
    assert empty == {2: "9.00", **dict.fromkeys(range(62, 120), "8.00")}


@pytest.mark.parametrize("early", [False, True])
def test_missed_first_minutes_of_the_new_generation_begin_its_bars(early: bool) -> None:
    """As they do for a name that was never listed before; `early`: the rows come before its first trade is seen."""
    missed = official((60, "7", 2), (61, "9", 1))
    again, anew = new_core("1m", "1h"), new_core("1m", "1h")
    ended(again)
    tick(anew, T0 - 1000)
    tick(anew, T0 + HOUR_MS)
    found = []
    for core in (again, anew):
        list_(core, listed(generation=AGAIN))
        said = [tick(core, AGAIN + 100)]
        said += [tick(core, T0 + 62 * MINUTE_MS + 1000)]
        if early:
            send(core, NAME, "1m", missed)
            said += [tick(core, T0 + 62 * MINUTE_MS + 1500)]
        feed(core, [trade(4, T0 + 62 * MINUTE_MS + 2000, "8")])
        said += [tick(core, T0 + 62 * MINUTE_MS + 2500)]
        if not early:
            send(core, NAME, "1m", missed)
        said += [tick(core, T0 + 62 * MINUTE_MS + 3000)]
        feed(core, [trade(5, T0 + 63 * MINUTE_MS, "8")])
        said += [tick(core, T0 + 64 * MINUTE_MS + 4000), *steps(core, T0 + 2 * HOUR_MS + 3000)]
        found.append({key: (brief(kline), kline.source) for key, kline in newest(klines(said)).items()})
    assert found[0] == found[1]
    assert found[0][NAME, "1m", T0 + 60 * MINUTE_MS] == ((2, "7.00", "7.00", "7.00", "7.00", "official"), "exchange")


def test_a_name_whose_slot_was_freed_is_marked_and_gets_official_rows_again_once_it_is_listed_anew() -> None:
    core, now = new_core("1m"), T0 + 4 * DAY_MS
    list_(core, listed())
    feed(core, [trade(100, T0)])
    tick(core, T0)
    list_(core, listed("CLOSE"))
    tick(core, T0 + 1000)
    steps(core, now)
    assert core.symbols.names == [""]
    send(core, NAME, "1m", [(now - MINUTE_MS, *official((0, "5", 3))[0][1:])])
    watermark(core, now + 100)
    tick(core, now + 100)
    assert core.symbols.names == [""], "neither brings it back"
    list_(core, listed(generation=now + 500))
    tick(core, now + 600)
    feed(core, [trade(3, now + 61_000, "7")])
    watermark(core, now + 62_000)
    assert core.finality.alive_until[0] < now
    tick(core, now + 62_000)
    assert core.finality.alive_until[0] == now + 62_000
    send(core, NAME, "1m", [(now, *official((0, "5", 3))[0][1:])])
    said = klines(tick(core, now + 63_000))
    assert [(each.open_time, each.trades, each.source, each.standing) for each in said] == [
        (now, 3, "exchange", "official")
    ]
