from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import aiohttp
import pytest

from klagg.simulator import FaultScript, FaultScriptError, Simulator, SyntheticMarket, read_faults
from klagg.simulator.bars import Bar, fold
from klagg.simulator.changing import ChangingMarket
from klagg.simulator.history import klines
from klagg.simulator.market import ContractListing, MarketSource, MarketTrade
from tests.simulator.kit import START_MS, ask, connected, receive, running

MINUTE_MS = 60_000
SECOND_MS = 1_000
END_MS = START_MS + 10 * MINUTE_MS
# The first trade of a quiet symbol takes a while; the times lie within minutes on purpose.
LIFE = """
[[fault]]
kind = "listing"
at_s = 100.5
symbols = ["ETHUSDT"]
pending_s = 30
[[fault]]
kind = "delisting"
at_s = 230
symbols = ["BTCUSDT"]
settle_s = 40
[[fault]]
kind = "relisting"
at_s = 371
symbols = ["BTCUSDT"]
[[fault]]
kind = "tick_size"
at_s = 150.25
symbols = ["BTCUSDT", "ETHUSDT"]
digits = 2
[[fault]]
kind = "tick_size"
at_s = 450
symbols = ["BTCUSDT"]
"""


def script(text: str = LIFE) -> FaultScript:
    return read_faults(text)


def market(text: str = LIFE, straddle_share: float = 0.25) -> ChangingMarket:
    source = SyntheticMarket(8, 400, seed=5, straddle_share=straddle_share)
    return ChangingMarket(source, script(text).changes, START_MS)


def at(second: float) -> int:
    return START_MS + int(second * 1000)


def told(source: MarketSource, symbol: str, *, fills: bool = False) -> list[MarketTrade]:
    """A symbol's trades as a player draws them."""
    found: list[MarketTrade] = []
    for after_ms in range(START_MS, END_MS, 5 * SECOND_MS):
        source.prepare(after_ms)
        read = source.fills if fills else source.aggregates
        found += [trade for trade in read(after_ms, after_ms + 5 * SECOND_MS) if trade.symbol == symbol]
    return found


def listing(source: MarketSource, symbol: str, now_ms: int) -> ContractListing | None:
    return next((each for each in source.listings(now_ms) if each.symbol == symbol), None)


def test_other_symbols_are_untouched() -> None:
    plain, changing = SyntheticMarket(8, 400, seed=5, straddle_share=0.25), market()
    assert told(changing, "SOLUSDT") == told(plain, "SOLUSDT")
    assert changing.bar("SOLUSDT", START_MS, at(60) - 1, END_MS) == plain.bar("SOLUSDT", START_MS, at(60) - 1, END_MS)
    assert changing.describe()["changing"] == ["BTCUSDT", "ETHUSDT"]
    assert changing.listings(END_MS)[2:] == list(plain.listings(END_MS))[2:]


def test_a_listing_begins_with_id_1() -> None:
    changing = market()
    trades, fills = told(changing, "ETHUSDT"), told(changing, "ETHUSDT", fills=True)
    assert [trade.id for trade in trades] == list(range(1, len(trades) + 1))
    assert [fill.id for fill in fills] == list(range(1, len(fills) + 1))
    assert trades[0].first == 1
    assert at(100.5) <= trades[0].time_ms < at(110)
    states = [(listing(changing, "ETHUSDT", at(second))) for second in (70, 71, 100.4, 100.5)]
    assert [state and state.status for state in states] == [None, "PENDING_TRADING", "PENDING_TRADING", "TRADING"]
    assert states[3] is not None
    assert states[3].onboard_ms == at(100.5)
    assert changing.aggregates_from("ETHUSDT", 0, 5, at(100)) == []
    assert changing.aggregates_between("ETHUSDT", START_MS, END_MS, 5, at(100), newest=True) == []
    assert changing.bar("ETHUSDT", START_MS, at(60) - 1, at(100)) is None
    assert changing.history_start_ms("ETHUSDT", END_MS) == at(100.5)


def test_a_delisted_symbol_settles_and_goes_and_comes_back_anew() -> None:
    changing = market()
    trades = told(changing, "BTCUSDT")
    old = [trade for trade in trades if trade.time_ms < at(300)]
    new = [trade for trade in trades if trade.time_ms >= at(300)]
    assert max(trade.time_ms for trade in old) < at(230)
    assert min(trade.time_ms for trade in new) >= at(371)
    assert [trade.id for trade in old] == list(range(old[0].id, old[0].id + len(old)))
    assert [trade.id for trade in new] == list(range(1, len(new) + 1))
    assert (old[0].id > 1, new[0].first) == (True, 1)
    seconds = (229.9, 230, 269.9, 270, 370.9, 371)
    states = [listing(changing, "BTCUSDT", at(second)) for second in seconds]
    assert [state and state.status for state in states] == ["TRADING", "SETTLING", "SETTLING", None, None, "TRADING"]
    assert states[1] is not None
    assert states[5] is not None
    assert states[1].delivery_ms == at(230)
    assert (states[5].onboard_ms, states[5].delivery_ms) == (at(371), 4_133_404_800_000)


def test_prices_use_their_new_decimals() -> None:
    changing = market()
    plain = {
        trade.time_ms: trade.price for trade in told(SyntheticMarket(8, 400, seed=5, straddle_share=0.25), "BTCUSDT")
    }
    digits = {}
    for trade in told(changing, "BTCUSDT"):
        digits[trade.time_ms] = len(trade.price.partition(".")[2])
        rise = Decimal(trade.price) - Decimal(plain[trade.time_ms])
        assert abs(rise) < 20  # two trades of one ms may have two prices
    assert {count for time_ms, count in digits.items() if time_ms < at(150.25)} == {2}
    assert {count for time_ms, count in digits.items() if at(150.25) <= time_ms < at(450)} == {4}
    assert {count for time_ms, count in digits.items() if time_ms >= at(450)} == {5}
    state = listing(changing, "BTCUSDT", at(151))
    assert state is not None
    assert (state.price_precision, state.tick_size) == (4, "0.0001")


@pytest.mark.parametrize("symbol", ["BTCUSDT", "ETHUSDT"])
@pytest.mark.parametrize("now_s", [229, 600])
def test_klines_are_the_fold_of_the_fills_that_were_told(symbol: str, now_s: int) -> None:
    changing, now_ms = market(), at(now_s)
    fills = [fill for fill in told(market(), symbol, fills=True) if fill.event_ms <= now_ms]
    if symbol == "BTCUSDT":
        fills = [fill for fill in fills if (fill.time_ms >= at(300)) == (now_s == 600)]
    bars = klines(changing, symbol, "1m", START_MS, None, 100, now_ms)
    assert bars
    for bar in bars:
        inside = [fill for fill in fills if bar.open_ms <= fill.time_ms <= bar.close_ms]
        assert values(bar) == values(fold(bar.open_ms, bar.close_ms, inside, bar.close))
    assert sum(bar.trades for bar in bars) == sum(fill.counts for fill in fills)
    (hour,) = klines(changing, symbol, "1h", START_MS, None, 5, now_ms)
    if symbol == "ETHUSDT" or now_s == 600:
        assert values(hour) == values(fold(hour.open_ms, hour.close_ms, fills))


def values(bar: Bar | None) -> list[object]:
    assert bar is not None
    return [str(getattr(bar, name)) for name in Bar.__slots__ if bar.trades or "id" not in name]


def test_what_was_told_is_what_history_tells() -> None:
    changing = market()
    trades = told(changing, "BTCUSDT")
    new = [trade for trade in trades if trade.time_ms >= at(371)]
    assert list(changing.aggregates_from("BTCUSDT", 1, len(new), END_MS)) == new
    assert list(changing.aggregates_from("BTCUSDT", 7, 3, END_MS)) == new[6:9]
    assert list(changing.aggregates_between("BTCUSDT", 0, END_MS, 4, END_MS, newest=True)) == new[-4:]
    assert list(changing.aggregates_between("BTCUSDT", 0, END_MS, 4, END_MS, newest=False)) == new[:4]
    assert changing.aggregates_between("BTCUSDT", START_MS, at(370), 4, END_MS, newest=False) == []
    old = [trade for trade in trades if trade.time_ms < at(230)]
    before = list(changing.aggregates_between("BTCUSDT", at(-1), END_MS, 10**6, at(371) - 1, newest=False))
    assert before[-len(old) :] == old
    assert before[-1].time_ms < at(230)
    assert changing.bar("BTCUSDT", at(240), at(300) - 1, at(371) - 1) is None
    assert changing.bar("BTCUSDT", at(180), at(240) - 1, at(371)) is None


@pytest.mark.parametrize("second", [60, 120])
def test_changes_at_the_boundary_of_a_minute(second: int) -> None:
    text = f'[[fault]]\nkind = "tick_size"\nat_s = {second}\nsymbols = ["BTCUSDT"]'
    changing = market(text, straddle_share=1.0)
    fills = told(changing, "BTCUSDT", fills=True)
    for bar in klines(changing, "BTCUSDT", "1m", START_MS + MINUTE_MS, None, 4, END_MS):
        inside = [fill for fill in fills if bar.open_ms <= fill.time_ms <= bar.close_ms]
        assert values(bar) == values(fold(bar.open_ms, bar.close_ms, inside))


def test_the_flat_bar_carries_the_generations_price() -> None:
    quiet = ChangingMarket(
        SyntheticMarket(40, 2, seed=5),
        script('[[fault]]\nkind = "listing"\nat_s = 90\nsymbols = ["BTCUSDT"]').changes,
        START_MS,
    )
    bars = klines(quiet, "BTCUSDT", "1m", START_MS, None, 600, START_MS + 600 * MINUTE_MS)
    empty = [place for place, bar in enumerate(bars) if not bar.trades]
    assert empty
    assert empty[0] > 0
    for place in empty:
        assert {bars[place].open, bars[place].close} == {bars[place - 1].close}


@pytest.mark.parametrize(
    ("tables", "sentence"),
    [
        (['kind = "listing"\nat_s = 1\nsymbols = ["NONEUSDT"]'], "Fault 1 .listing.*: NONEUSDT is no symbol"),
        (['kind = "relisting"\nat_s = 1\nsymbols = ["BTCUSDT"]'], "Fault 1 .relisting.*has not been delisted"),
        (['kind = "delisting"\nat_s = 1\nsymbols = ["BTCUSDT"]'] * 2, "Fault 2 .delisting.*is delisted already"),
        (
            [
                f'kind = "{kind}"\nat_s = {time}\nsymbols = ["BTCUSDT"]'
                for kind, time in (("tick_size", 1), ("listing", 2))
            ],
            "Fault 2 .listing.*changes before it is listed",
        ),
        (
            [f'kind = "{kind}"\nat_s = 5\nsymbols = ["BTCUSDT"]' for kind in ("listing", "delisting")],
            "Fault 2 .delisting.*must have traded before at_s",
        ),
    ],
)
def test_changes_that_cannot_be_are_refused(tables: list[str], sentence: str) -> None:
    with pytest.raises(FaultScriptError, match=sentence):
        market("\n".join(f"[[fault]]\n{table}" for table in tables))


async def test_streams_rest_and_contract_info_follow() -> None:
    source = SyntheticMarket(8, 100, seed=5)
    exchange = Simulator(source, 100, start_ms=START_MS, wait=True, faults=script())
    path = "/market/stream?streams=!contractInfo/btcusdt@aggTrade/ethusdt@aggTrade/btcusdt@kline_1m"
    events: list[dict[str, Any]] = []
    trades: list[tuple[str, int, int]] = []
    async with running(exchange) as server, connected(server, path) as client:
        while not trades or trades[-1][2] < at(380) or events[-1]["ot"] != at(371):
            data = (await receive(client))["data"]
            if data["e"] == "contractInfo":
                events.append(data)
            elif data["e"] == "aggTrade":
                trades.append((data["s"], data["a"], data["T"]))
        async with aiohttp.ClientSession(server.rest_url) as session:
            async with session.get("/fapi/v1/exchangeInfo") as response:
                listed = {row["symbol"]: row for row in (await response.json())["symbols"]}
            async with session.get("/fapi/v1/aggTrades?symbol=BTCUSDT&fromId=1&limit=3") as response:
                assert [trade["a"] for trade in await response.json()] == [1, 2, 3]
            async with session.get(f"/klagg/trades?symbol=BTCUSDT&from={at(-1)}&asof={at(250)}") as response:
                record = [json.loads(row) for row in (await response.text()).splitlines()]
        assert await ask(client, "UNSUBSCRIBE", ["btcusdt@aggTrade"]) == {"result": None, "id": 1}
    seen = [(event["s"], event["cs"], event["ot"]) for event in events]
    assert ("ETHUSDT", "TRADING", at(100.5)) in seen
    assert ("BTCUSDT", "SETTLING", source.listings(START_MS)[0].onboard_ms) in seen
    assert seen[-1] == ("BTCUSDT", "TRADING", at(371))
    assert events[-1].keys() == {"e", "E", "s", "ps", "ct", "dt", "ot", "cs", "st"}
    assert listed["BTCUSDT"]["onboardDate"] == at(371)
    assert listed["ETHUSDT"]["filters"][0]["tickSize"] == "0.0001"
    old = [trade_id for symbol, trade_id, time_ms in trades if symbol == "BTCUSDT" and time_ms < at(371)]
    assert old == [trade["id"] for trade in record if trade["id"] >= old[0]]
    assert next(item for item in trades if item[0] == "ETHUSDT")[1] == 1


PAUSED = """
[[fault]]
kind = "pause"
at_s = 95
for_s = 150
symbols = ["BTCUSDT"]
[[fault]]
kind = "tick_size"
at_s = 300
symbols = ["BTCUSDT"]
[[fault]]
kind = "pause"
at_s = 360.5
for_s = 20
symbols = ["BTCUSDT"]
"""


@pytest.mark.parametrize("fills", [False, True])
def test_a_pause_leaves_trades_out_and_no_id(fills: bool) -> None:
    plain, paused = SyntheticMarket(8, 400, seed=5), market(PAUSED)
    every, left = told(plain, "BTCUSDT", fills=fills), told(paused, "BTCUSDT", fills=fills)
    assert {each.id for each in left} == set(range(left[0].id, left[-1].id + 1)), "the ids go on without a gap"
    pauses = ((at(95), at(245)), (at(360.5), at(380.5)))
    kept = [each for each in every if not any(from_ms <= each.time_ms < to_ms for from_ms, to_ms in pauses)]
    edge = sum(any(from_ms <= each.time_ms < from_ms + 100 for from_ms, _ in pauses) for each in every)
    assert len(kept) <= len(left) <= len(kept) + edge, "fills of a trade that began before are its own"
    assert not [each for each in left if at(95.1) <= each.time_ms < at(245)]
    assert any(each.time_ms >= at(245) for each in left)


def test_rest_tells_the_same_of_a_paused_symbol() -> None:
    paused = market(PAUSED)
    every = told(paused, "BTCUSDT")
    known = [each for each in every if each.time_ms <= END_MS - SECOND_MS]
    first, last = known[0].time_ms, known[-1].time_ms
    between = paused.aggregates_between("BTCUSDT", first, last, 1 << 40, END_MS, newest=False)
    assert list(between) == [each for each in every if first <= each.time_ms <= last]
    for limit in (1, 7, 500):
        read = paused.aggregates_between("BTCUSDT", first, last, limit, END_MS, newest=True)
        assert list(read) == list(between)[-limit:]
        assert list(paused.aggregates_between("BTCUSDT", first, last, limit, END_MS, newest=False)) == list(
            between[:limit]
        )
        for from_id in (between[0].id, between[len(between) // 3].id, between[-limit].id):
            page = paused.aggregates_from("BTCUSDT", from_id, limit, END_MS)
            assert [each.id for each in page] == list(range(from_id, from_id + len(page)))
            assert len(page) == limit or page[-1].id >= between[-1].id


def test_the_minutes_of_a_pause_are_flat_and_the_others_are_their_trades() -> None:
    paused = market(PAUSED)
    fills = [each for each in told(paused, "BTCUSDT", fills=True) if each.counts]
    price = next(each.price for each in reversed(fills) if each.time_ms < at(95.1))
    for minute in range(1, 8):
        opens, closes = at(60 * minute), at(60 * (minute + 1)) - 1
        bar = paused.bar("BTCUSDT", opens, closes, END_MS)
        own = [each for each in fills if opens <= each.time_ms <= closes]
        assert bar is not None
        if own:
            assert bar.trades == len(own)
            assert bar.volume == sum(Decimal(each.qty) for each in own)
        else:
            assert (bar.open, bar.high, bar.low, bar.close, bar.trades, bar.volume) == (*[price] * 4, 0, 0)
        assert bool(own) != (minute in (2, 3))


def test_one_that_has_not_opened_has_no_contract_type() -> None:
    pending = listing(market(), "ETHUSDT", at(90))
    assert pending is not None
    assert (pending.status, pending.contract_type) == ("PENDING_TRADING", "")


STATUS = """
[[fault]]
kind = "status"
at_s = 0
for_s = 3600
symbols = ["ETHUSDT", "NOSUCHUSDT"]
word = "TRADING_HALT"
[[fault]]
kind = "status"
at_s = 0
for_s = 3600
symbols = ["SOLUSDT"]
word = "BREAK, 2027"
contract_type = "NEW"
[[fault]]
kind = "status"
at_s = 86000
symbols = ["BTCUSDT"]
word = "CLOSE"
"""


async def test_a_status_is_told_by_exchangeinfo_alone() -> None:
    exchange = Simulator(SyntheticMarket(8, 400, seed=5), faults=script(STATUS), start_ms=START_MS)
    async with running(exchange), aiohttp.ClientSession() as session:
        async with session.get(f"{exchange.rest_url}/fapi/v1/exchangeInfo") as answer:
            rows = {each["symbol"]: each for each in (await answer.json())["symbols"]}
        assert [(rows[name]["status"], rows[name]["contractType"]) for name in ("BTCUSDT", "ETHUSDT", "SOLUSDT")] == [
            ("TRADING", "PERPETUAL"),
            ("TRADING_HALT", "PERPETUAL"),
            ("BREAK, 2027", "NEW"),
        ]
        assert exchange.faults is not None
        assert [(each["active"], each["acted"]) for each in exchange.faults.state()] == [
            (True, 1),
            (True, 1),
            (False, 0),
        ]
    assert listing(exchange.source, "ETHUSDT", START_MS) == listing(
        SyntheticMarket(8, 400, seed=5), "ETHUSDT", START_MS
    )
