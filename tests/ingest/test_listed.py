"""Which symbols a line carries: at the start, as the exchange publishes changes, and where tickers show a doubt."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ingest.service import ingest
from klagg.drivers.redis_streams import Streams
from klagg.errors import ExchangeRefused
from klagg.process.alarms import AlarmKind
from klagg.process.service import AsyncContext
from tests.ingest.kit import (
    SYMBOLS,
    SmallExchange,
    agg_trade,
    alarms_of,
    column_of,
    contract_news,
    feed_of,
    frame_of,
    standing,
)
from tests.ingest.linekit import SHORT, TIMINGS, Market, a_context, a_line, hasty, marked
from tests.kit import eventually_async as eventually

pytestmark = pytest.mark.servers

BTC, ETH, CJK = SYMBOLS


@pytest.fixture
def streams(redis_url: str) -> Streams:
    return Streams(redis_url)


async def test_subscriptions_follow_what_the_exchange_tells(streams: Streams, redis_url: str) -> None:
    async with SmallExchange().running() as exchange, Market(exchange, [BTC, "新USDT"]).running():
        context = a_context(exchange, redis_url, **hasty())
        async with a_line(context, TIMINGS):
            await eventually(lambda: marked(streams) == set(SYMBOLS))
            # It is carried at once, whatever exchangeInfo says yet; trades before that are none of this line's.
            await exchange.publish("!contractInfo", contract_news("新USDT", "TRADING"))
            await eventually(lambda: "新USDT" in column_of(feed_of(streams, "trades"), "symbol"))
            await eventually(lambda: marked(streams) == {*SYMBOLS, "新USDT"})
            exchange.symbols.append("新USDT")
            exchange.statuses[ETH] = "SETTLING"
            await exchange.publish("!contractInfo", contract_news(ETH, "SETTLING"))
            await eventually(lambda: marked(streams) == {BTC, CJK, "新USDT"})
        said = [(each["method"], each["params"]) for each in exchange.messages]
        assert said == [("SUBSCRIBE", ["新usdt@aggTrade"]), ("UNSUBSCRIBE", ["ethusdt@aggTrade"])]
        assert len(exchange.connections) == 1


async def test_a_symbol_that_ticks_and_is_not_carried_is_asked_about(
    streams: Streams, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with SmallExchange().running() as exchange, Market(exchange, [BTC, "NEWUSDT", "NEWUSDC"]).running():
        context = a_context(exchange, redis_url, **hasty())
        async with a_line(context, replace(TIMINGS, overdue_s=0.5)):
            await eventually(lambda: alarms_of(context.stats, "not_carried"))
            exchange.symbols.append("NEWUSDT")
            await eventually(lambda: marked(streams) == {*SYMBOLS, "NEWUSDT"})
            assert alarms_of(context.stats, "not_carried") == 1
            await eventually(lambda: AlarmKind.NOT_CARRIED not in standing(context.stats))
    assert "ALARM: NEWUSDT is traded or was announced, and exchangeInfo does not confirm it" in caplog.text


async def test_a_start_without_an_exchange_gives_up_with_a_sentence(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with SmallExchange().running() as exchange:
        exchange.rest_status = 503
        with pytest.raises(ExchangeRefused, match="refused /fapi/v1/exchangeInfo with HTTP 503"):
            await ingest(a_context(exchange, redis_url), replace(SHORT, start_tries=3))
    said = [record.getMessage() for record in caplog.records]
    assert len([sentence for sentence in said if sentence.startswith("no symbols yet, next try in ")]) == 2


async def test_a_start_waits_for_an_exchange_that_comes_late(streams: Streams, redis_url: str) -> None:
    async with SmallExchange().running() as exchange:
        exchange.rest_status = 503
        context = a_context(exchange, redis_url)
        async with a_line(context):
            await eventually(lambda: context.stats.counters.get("sync_failures"))
            exchange.rest_status = 200
            await eventually(lambda: exchange.connections)
            await exchange.send(frame_of(agg_trade(1)))
            await eventually(lambda: context.stats.counters.get("syncs"))


def told_by(context: AsyncContext) -> dict[str, str]:
    """The alarms that stand, by kind."""
    return {str(each.kind): each.sentence for each in context.stats.alarms.standing}


@pytest.mark.parametrize(
    ("status", "symbols", "why"),
    [
        ("PENDING_TRADING", [BTC, ETH], "none of the chosen symbols trades (ETHUSDT is PENDING_TRADING)"),
        ("SETTLING", [BTC, ETH], "none of the chosen symbols trades (ETHUSDT is SETTLING)"),
        ("TRADING", [BTC], "exchange.symbols names 'ETHUSDT', which the exchange does not list"),
    ],
)
async def test_a_choice_that_is_not_there_is_waited_for(
    streams: Streams, redis_url: str, status: str, symbols: list[str], why: str
) -> None:
    async with SmallExchange().running() as exchange:
        exchange.symbols, exchange.statuses = symbols, {ETH: status}
        context = a_context(exchange, redis_url, **hasty(symbols=[ETH]))
        async with a_line(context, replace(TIMINGS, waiting_s=0.2)) as task:
            await eventually(lambda: context.stats.counters.get("listings", 0) >= 3)
            assert not task.done()
            assert not exchange.connections
            assert told_by(context)["waiting"].startswith(f"{why}: this line waits")
            exchange.symbols, exchange.statuses = [BTC, ETH], {}
            await eventually(lambda: exchange.connections)
            await exchange.send(frame_of(agg_trade(1, s=ETH)))
            await eventually(lambda: marked(streams) == {ETH})
            assert "waiting" not in told_by(context)


@pytest.mark.parametrize("status", ["TRADING_HALT", "BREAK_2027", "", "PENDING_TRADING"])
async def test_a_halted_symbol_stays_subscribed(streams: Streams, redis_url: str, status: str) -> None:
    async with SmallExchange().running() as exchange, Market(exchange, list(SYMBOLS)).running():
        context = a_context(exchange, redis_url, **hasty(), clock={"listings_s": 1})
        async with a_line(context, TIMINGS):
            await eventually(lambda: marked(streams) == set(SYMBOLS))
            exchange.statuses[ETH] = status
            exchange.rows = {"contractType": "PERPETUAL_2027"}
            answers = context.stats.counters["listings"]
            await eventually(lambda: context.stats.counters["listings"] >= answers + 2)
            assert marked(streams) == set(SYMBOLS)
        assert not exchange.messages, "nothing was unsubscribed from"
        assert words_of(context, "contract_type") == len(SYMBOLS)
        assert words_of(context, "status") == (status in ("BREAK_2027", ""))


async def test_a_new_contract_type_is_an_alarm_while_it_is_listed(streams: Streams, redis_url: str) -> None:
    """The symbols are carried from the first answer on, whatever the delivery time of such a type."""
    async with SmallExchange().running() as exchange, Market(exchange, list(SYMBOLS)).running():
        exchange.rows = {"contractType": "PERPETUAL_2027", "deliveryDate": 1_900_000_000_000}
        context = a_context(exchange, redis_url, **hasty(), clock={"listings_s": 1})
        async with a_line(context, TIMINGS):
            await eventually(lambda: marked(streams) == set(SYMBOLS))
            said = "the exchange has a new word, contract_type 'PERPETUAL_2027': "
            assert told_by(context)[AlarmKind.NEW_WORD].startswith(said)
            exchange.rows = {}
            await eventually(lambda: AlarmKind.NEW_WORD not in told_by(context))
        assert words_of(context, "contract_type") == len(SYMBOLS)


def words_of(context: AsyncContext, kind: str) -> int:
    """How many new words of a kind were counted."""
    return context.stats.labelled_counters[("unknown_words", (("kind", kind),))]


async def test_one_that_has_not_opened_is_carried_when_it_trades_whatever_exchangeinfo_says(
    streams: Streams, redis_url: str
) -> None:
    """It is asked about at once; what persists is an alarm."""
    new = "SOLUSDT"
    async with SmallExchange().running() as exchange, Market(exchange, [BTC]).running() as market:
        exchange.symbols.append(new)
        exchange.statuses[new] = "PENDING_TRADING"
        context = a_context(exchange, redis_url, **hasty())
        async with a_line(context, replace(TIMINGS, insist_s=0.5, overdue_s=0.5)):
            await eventually(lambda: marked(streams) == set(SYMBOLS))
            asked = context.stats.counters["listings"]
            market.trading.append(new)
            await eventually(lambda: context.stats.counters["listings"] > asked)
            await eventually(lambda: marked(streams) == {*SYMBOLS, new})
            assert new in column_of(feed_of(streams, "trades"), "symbol")
            await eventually(lambda: "not_carried" in told_by(context))
            assert told_by(context)["not_carried"].startswith(f"{new} is traded or was announced")
            exchange.statuses[new] = "TRADING"
            await eventually(lambda: "not_carried" not in told_by(context))
            assert marked(streams) == {*SYMBOLS, new}


async def test_a_trade_of_a_listed_symbol_that_is_not_carried_is_a_doubt(streams: Streams, redis_url: str) -> None:
    new = "SOLUSDT"
    async with SmallExchange().running() as exchange, Market(exchange, [BTC, new]).running() as market:
        market.tickers = False
        exchange.symbols.append(new)
        exchange.statuses[new] = "SETTLING"
        context = a_context(exchange, redis_url, **hasty())
        async with a_line(context, replace(TIMINGS, insist_s=0.5)):
            await eventually(lambda: new in column_of(feed_of(streams, "trades"), "symbol"))


async def test_new_words_in_trades_are_counted_and_the_trades_taken(
    streams: Streams, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with SmallExchange().running() as exchange:
        context = a_context(exchange, redis_url)
        async with a_line(context):
            await eventually(lambda: exchange.connections and exchange.controls)
            await exchange.publish("!future@arr", {"e": "future_2027"})
            for number in (1, 2, 3):
                await exchange.send(frame_of(agg_trade(number, st=3)))
            await eventually(lambda: len(column_of(feed_of(streams, "trades"), "id")) == 3)
            await eventually(lambda: words_of(context, "event") == 1)
            assert "and 1 more of this kind" in told_by(context)["new_word"]
        assert words_of(context, "symbol_type") == 3
    said = [each.getMessage() for each in caplog.records if "has a new word" in each.getMessage()]
    assert sorted(said) == [
        "ALARM: the exchange has a new word, event 'future_2027': events of this type are passed over",
        "ALARM: the exchange has a new word, symbol_type '3': the trades are taken as all others are",
    ]


async def test_an_event_that_nobody_has_seen_is_told_where_trades_come_too(streams: Streams, redis_url: str) -> None:
    """Trades under a new type would be rejected one by one; that the type is new must not stand in the log alone."""
    async with SmallExchange().running() as exchange:
        context = a_context(exchange, redis_url)
        async with a_line(context):
            await eventually(lambda: exchange.connections)
            await exchange.send(frame_of(agg_trade(1)), frame_of(agg_trade(2, e="aggTrade_2027")))
            await exchange.send(frame_of(agg_trade(3, e="trade")))
            await eventually(lambda: context.stats.counters["rejected"] == 2)
            assert "event 'aggTrade_2027': events of this type are passed over" in told_by(context)["new_word"]
            assert words_of(context, "event") == 1, "a fill is no trade of this line, and no new word"
        assert column_of(feed_of(streams, "trades"), "id") == ["1"]
