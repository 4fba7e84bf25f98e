"""The exchange's payloads that only the simulator writes, field by field as of 2026. Pure: values in, JSON text out.

Those that klagg's gateway writes too are in klagg.binance.serving.payloads.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import NamedTuple

from klagg.binance.serving import payloads
from klagg.binance.serving.payloads import USD_M, WireKline, compact, plain, quoted
from klagg.row_rules import COIN_MARGINED
from klagg.simulator.bars import Bar
from klagg.simulator.market import DAY_MS, ContractListing, MarketTrade

_COIN_M = "BTCUSD_PERP"
_COIN_M_BAR = Bar(0, 0, "50000.0", "50000.0", "50000.0", "50000.0", Decimal(1), Decimal("0.002"))
"""The ticker of another market that the exchange mixes in."""


def agg_trade_event(trade: MarketTrade) -> str:
    """The `aggTrade` event."""
    maker = "true" if trade.maker else "false"
    return (
        f'{{"e":"aggTrade","E":{trade.event_ms},"a":{trade.id},"s":{quoted(trade.symbol)},"p":"{trade.price}",'
        f'"q":"{trade.qty}","nq":"{trade.normal_qty}","f":{trade.first},"l":{trade.last},"T":{trade.time_ms},'
        f'"m":{maker},"st":1}}'
    )


def trade_event(trade: MarketTrade) -> str:
    """The `trade` event."""
    maker = "true" if trade.maker else "false"
    return (
        f'{{"e":"trade","E":{trade.event_ms},"T":{trade.time_ms},"s":{quoted(trade.symbol)},"t":{trade.id},'
        f'"p":"{trade.price}","q":"{trade.qty}","X":{quoted(trade.execution)},"m":{maker},"st":1}}'
    )


def kline_event(symbol: str, interval: str, bar: Bar, event_ms: int, *, closed: bool) -> str:
    """The `kline` event."""
    return payloads.kline_event(symbol, interval, _wire_kline(bar), event_ms, closed=closed)


def _wire_kline(bar: Bar) -> WireKline:
    return WireKline(
        bar.open_ms,
        bar.close_ms,
        bar.open,
        bar.high,
        bar.low,
        bar.close,
        plain(bar.volume),
        plain(bar.quote_volume),
        bar.trades,
        plain(bar.taker_buy_volume),
        plain(bar.taker_buy_quote_volume),
        bar.first_id,
        bar.last_id,
    )


def mini_tickers_event(tickers: Mapping[str, Bar], event_ms: int, *, coin_m: bool) -> str:
    """The `!miniTicker@arr` array of the tickers that changed; `coin_m` adds a COIN-M one, as the exchange mixes in."""
    rows = [_mini_ticker(symbol, bar, event_ms, USD_M) for symbol, bar in tickers.items()]
    if coin_m:
        rows.append(_mini_ticker(_COIN_M, _COIN_M_BAR, event_ms, COIN_MARGINED))
    return compact(rows)


def _mini_ticker(symbol: str, bar: Bar, event_ms: int, market: int) -> dict[str, object]:
    return {
        "e": "24hrMiniTicker",
        "E": event_ms,
        "s": symbol,
        "c": bar.close,
        "o": bar.open,
        "h": bar.high,
        "l": bar.low,
        "v": plain(bar.volume),
        "q": plain(bar.quote_volume),
        "st": market,
    }


class DayTicker(NamedTuple):
    """A symbol's ticker: `bar` sums up the trades since somebody listens; the ids are those of the fills from
    `open_ms` on, and `close_ms` is when they were read (exchange ms)."""

    bar: Bar
    first_id: int
    last_id: int
    open_ms: int
    close_ms: int


def tickers_event(tickers: Mapping[str, DayTicker], event_ms: int, *, coin_m: bool) -> str:
    """The `!ticker@arr` array, likewise (Binance USDⓈ-M docs, "All Market Tickers Streams"). `Q`, the quantity of the
    last trade, is left out."""
    rows = [_ticker(symbol, each, event_ms, USD_M) for symbol, each in tickers.items()]
    if coin_m:
        rows.append(
            _ticker(_COIN_M, DayTicker(_COIN_M_BAR, 1, 1, event_ms - DAY_MS, event_ms), event_ms, COIN_MARGINED)
        )
    return compact(rows)


def _ticker(symbol: str, ticker: DayTicker, event_ms: int, market: int) -> dict[str, object]:
    bar = ticker.bar
    change = Decimal(bar.close) - Decimal(bar.open)
    average = bar.quote_volume / bar.volume if bar.volume else Decimal(bar.close)
    return {
        "e": "24hrTicker",
        "E": event_ms,
        "s": symbol,
        "p": plain(change),
        "P": f"{change / Decimal(bar.open) * 100:.3f}",
        "w": f"{average:.8f}",
        "c": bar.close,
        "o": bar.open,
        "h": bar.high,
        "l": bar.low,
        "v": plain(bar.volume),
        "q": plain(bar.quote_volume),
        "O": ticker.open_ms,
        "C": ticker.close_ms,
        "F": ticker.first_id,
        "L": ticker.last_id,
        "n": ticker.last_id - ticker.first_id + 1,
        "st": market,
    }


def contract_info_event(listing: ContractListing, event_ms: int) -> str:
    """The `!contractInfo` event that a listing, delisting or change of a contract sends."""
    return compact(
        {
            "e": "contractInfo",
            "E": event_ms,
            "s": listing.symbol,
            "ps": listing.symbol,
            "ct": listing.contract_type,
            "dt": listing.delivery_ms,
            "ot": listing.onboard_ms,
            "cs": listing.status,
            "st": USD_M,
        }
    )


def rest_agg_trade(trade: MarketTrade) -> dict[str, object]:
    """An item of `GET /fapi/v1/aggTrades`."""
    return {
        "a": trade.id,
        "p": trade.price,
        "q": trade.qty,
        "nq": trade.normal_qty,
        "f": trade.first,
        "l": trade.last,
        "T": trade.time_ms,
        "m": trade.maker,
    }


def rest_day_ticker(
    first: MarketTrade, last: MarketTrade, last_id: int, open_ms: int, close_ms: int
) -> dict[str, object]:
    """A row of `GET /fapi/v1/ticker/24hr`: the price of the `last` trade and the ids of fills; `last_id` may be one
    without an aggregate trade. Sums of the day are not in it, because nobody here reads them and they would cost a
    day's trades."""
    return {
        "symbol": last.symbol,
        "lastPrice": last.price,
        "lastQty": last.qty,
        "openTime": open_ms,
        "closeTime": close_ms,
        "firstId": first.first,
        "lastId": last_id,
        "count": last_id - first.first + 1,
    }


def rest_kline(bar: Bar) -> list[object]:
    """A row of `GET /fapi/v1/klines`."""
    return payloads.rest_kline(_wire_kline(bar))
