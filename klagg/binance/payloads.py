"""The content of the exchange's REST answers and events: readers of decoded JSON. Pure.

A row that is not as documented is left out and reported; an answer without anything usable is an error.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from klagg.arrays import INT64_MAX
from klagg.binance.contracts import is_chosen, word_of
from klagg.errors import ConfigError, ExchangeUnavailable
from klagg.row_rules import is_coin_margined
from klagg.wire.entries import SCALE_MAX, Listing

_NAME = re.compile(r"[^\W_][\w.-]{0,63}")
"""Symbols become parts of columns and keys: letters of any script, digits, `_`, `.`, `-`."""

_DECIMAL = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class ServerTime:
    """The answer of `/fapi/v1/time`: exchange ms, and how fast that clock runs.

    `speed` is 1 for Binance. A simulator reports its own (0 while its clock is held) and is `simulated`.
    """

    time_ms: int
    speed: float = 1.0
    simulated: bool = False


@dataclass(frozen=True, slots=True)
class Contract:
    """A symbol of exchangeInfo: its listing, and by what a configuration chooses it."""

    listing: Listing
    contract_type: str
    quote_asset: str

    def fits(self, quote_assets: Sequence[str], contract_types: Sequence[str]) -> bool:
        """Whether quote asset and contract type are among the chosen ones; see contracts.is_chosen."""
        of_type = is_chosen(self.listing.symbol, self.contract_type, self.listing.delivery, contract_types)
        return of_type and self.is_quoted_in(quote_assets)

    def is_quoted_in(self, quote_assets: Sequence[str]) -> bool:
        """Whether the quote asset is one of these; where the answer has none, the end of the name says it."""
        return self.quote_asset in quote_assets or (
            not self.quote_asset and self.listing.symbol.endswith(tuple(quote_assets))
        )


@dataclass(frozen=True, slots=True)
class Contracts:
    """What an answer of exchangeInfo lists.

    `names` are all names in it, `by_name` the contracts whose rows can be used; `malformed` holds one sentence for each
    of the other rows.
    """

    names: frozenset[str]
    by_name: dict[str, Contract]
    malformed: list[str]


@dataclass(frozen=True, slots=True)
class Selection:
    """The listings requested, by name, and one sentence for each row that could not be read."""

    listings: list[Listing]
    malformed: list[str]


class Ticker(NamedTuple):
    """A symbol's ticker at the exchange time `time_ms`: last price, and volume over a moving day.

    `last_fill` (−1: it names none) was the last fill at the end of that day, `until_ms` (exchange ms), which is never
    later than `time_ms`. A tuple, because hundreds are made every second.
    """

    symbol: str
    time_ms: int
    close: str
    volume: float
    last_fill: int = -1
    until_ms: int = 0


@dataclass(frozen=True, slots=True)
class ContractNews:
    """A `!contractInfo` event: a contract was listed, delisted or changed. It holds neither scales nor quote asset."""

    symbol: str
    contract_type: str
    status: str
    generation: int
    delivery: int


def server_time_of(answer: Any) -> ServerTime:
    """ServerTime from the decoded answer; ExchangeUnavailable if it holds no time."""
    if not isinstance(answer, dict) or not _whole(answer.get("serverTime"), 1, INT64_MAX):
        raise ExchangeUnavailable(f"the exchange's answer to /time holds no serverTime: {str(answer)[:100]}")
    if answer.get("klaggSimulated") is not True:
        return ServerTime(answer["serverTime"])
    speed = answer.get("klaggSpeed", 1)
    if isinstance(speed, bool) or not isinstance(speed, int | float) or not 0 <= speed <= 1_000_000:
        raise ExchangeUnavailable(f"the simulator's answer to /time holds no usable klaggSpeed: {speed!r}")
    return ServerTime(answer["serverTime"], float(speed), True)


def listings_of(
    exchange_info: Any, quote_assets: Sequence[str], contract_types: Sequence[str], symbols: Sequence[str] = ()
) -> Selection:
    """The symbols of these quote assets and contract types; with `symbols` only those, each of which must be listed.

    ExchangeUnavailable if the answer holds no usable symbol at all; ConfigError if the choice leaves none, or names one
    that is not listed.
    """
    listed = contracts_of(exchange_info)
    chosen = {name: each.listing for name, each in listed.by_name.items() if each.fits(quote_assets, contract_types)}
    if symbols:
        _check_named(symbols, listed.by_name, chosen)
        chosen = {name: chosen[name] for name in symbols}
    if not chosen:
        raise ConfigError(nothing_chosen(quote_assets, contract_types))
    return Selection(sorted(chosen.values(), key=lambda each: each.symbol), listed.malformed)


def nothing_chosen(quote_assets: Sequence[str], contract_types: Sequence[str]) -> str:
    """The sentence for a choice that leaves no symbol."""
    return (
        f"the exchange lists no symbol with exchange.quote_assets {', '.join(quote_assets)} and "
        f"exchange.contract_types {', '.join(contract_types)}"
    )


def contracts_of(exchange_info: Any) -> Contracts:
    """All contracts of the decoded answer. ExchangeUnavailable if it holds no usable symbol at all."""
    rows = exchange_info.get("symbols") if isinstance(exchange_info, dict) else None
    if not isinstance(rows, list):
        raise ExchangeUnavailable("the exchange's answer to /exchangeInfo holds no list of symbols")
    listed: dict[str, Contract] = {}
    malformed: list[str] = []
    for number, row in enumerate(rows, 1):
        problem = _problem(row, listed)
        if problem:
            malformed.append(f"exchangeInfo symbol {number} {problem}: {str(row)[:100]!r}")
            continue
        kind, quote = row.get("contractType"), row.get("quoteAsset")
        contract = Contract(
            _listing(row), kind if isinstance(kind, str) else "", quote if isinstance(quote, str) else ""
        )
        listed[contract.listing.symbol] = contract
    if not listed:
        raise ExchangeUnavailable("the exchange's answer to /exchangeInfo holds no usable symbol")
    return Contracts(names_of(exchange_info), listed, malformed)


def names_of(exchange_info: Any) -> frozenset[str]:
    """The names of all symbols in the answer, whatever else is in their rows."""
    rows = exchange_info.get("symbols") if isinstance(exchange_info, dict) else None
    if not isinstance(rows, list):
        return frozenset()
    return frozenset(row["symbol"] for row in rows if isinstance(row, dict) and isinstance(row.get("symbol"), str))


def event_in(message: Any) -> Any:
    """The event, or list of events, in a message over a combined endpoint; None if it is a reply or nothing."""
    return message.get("data") if isinstance(message, dict) and "stream" in message else None


def tickers_of(event: Any) -> list[Ticker]:
    """The tickers in an event of `!ticker@arr` (Binance USDⓈ-M docs, "All Market Tickers Streams"); those of COIN-M
    symbols and rows that are none are left out. One without a usable `L` and `C` names no fill."""
    if not isinstance(event, list):
        return []
    return [ticker for ticker in map(_ticker, event) if ticker]


def _ticker(row: Any) -> Ticker | None:
    if not isinstance(row, dict) or row.get("e") != "24hrTicker" or is_coin_margined(row):
        return None
    name, time_ms, close, volume = row.get("s"), row.get("E"), row.get("c"), row.get("v")
    if not isinstance(name, str) or not _NAME.fullmatch(name) or not _whole(time_ms, 1, INT64_MAX):
        return None
    if not isinstance(close, str) or not isinstance(volume, str):
        return None
    try:
        volume_of_day = float(volume)
    except ValueError:
        return None
    last, until_ms = row.get("L"), row.get("C")
    if not _whole(last, 0, INT64_MAX) or not _whole(until_ms, 1, cast("int", time_ms)):
        last, until_ms = -1, 0
    return Ticker(name, cast("int", time_ms), close, volume_of_day, cast("int", last), cast("int", until_ms))


def last_fills_of(answer: Any) -> dict[str, int]:
    """The id of the last fill (`lastId`) of every symbol in an answer of `GET /fapi/v1/ticker/24hr` without a symbol
    (Binance USDⓈ-M docs, "24hr Ticker Price Change Statistics"). Rows that say none are left out.

    ExchangeUnavailable if the answer is no list.
    """
    if not isinstance(answer, list):
        raise ExchangeUnavailable("the exchange's answer to /ticker/24hr is no list")
    found: dict[str, int] = {}
    for row in answer:
        name, last = (row.get("symbol"), row.get("lastId")) if isinstance(row, dict) else (None, None)
        if isinstance(name, str) and _NAME.fullmatch(name) and _whole(last, 0, INT64_MAX):
            found[name] = cast("int", last)
    return found


def contract_of(event: Any) -> ContractNews | None:
    """The news of a contract in a `!contractInfo` event; None if it is no such event, or about a COIN-M contract."""
    if not isinstance(event, dict) or event.get("e") != "contractInfo" or is_coin_margined(event):
        return None
    name, kind, status = event.get("s"), event.get("ct", ""), event.get("cs")
    if not isinstance(name, str) or not _NAME.fullmatch(name) or not isinstance(kind, str):
        return None
    if not isinstance(status, str) or not status:
        return None
    if not _whole(event.get("ot"), 0, INT64_MAX) or not _whole(event.get("dt"), 0, INT64_MAX):
        return None
    return ContractNews(name, kind, word_of(status), event["ot"], event["dt"])


def not_listed(name: str) -> str:
    """The sentence for a symbol of the configuration that exchangeInfo does not have."""
    return f"exchange.symbols names {name!r}, which the exchange does not list"


def left_out(name: str) -> str:
    """The sentence for a symbol of the configuration that the rest of the configuration leaves out."""
    return f"exchange.symbols names {name!r}, which exchange.quote_assets and exchange.contract_types leave out"


def _check_named(symbols: Sequence[str], listed: dict[str, Contract], chosen: dict[str, Listing]) -> None:
    for name in symbols:
        if name not in listed:
            raise ConfigError(not_listed(name))
        if name not in chosen:
            raise ConfigError(left_out(name))


def _problem(row: Any, listed: dict[str, Contract]) -> str:
    """What is wrong with a row, "" if nothing."""
    if not isinstance(row, dict):
        return "is not an object"
    if not isinstance(row.get("symbol"), str) or not _NAME.fullmatch(row["symbol"]):
        return "has no usable symbol"
    if row["symbol"] in listed:
        return "is listed twice"
    for name, most in (
        ("pricePrecision", SCALE_MAX),
        ("quantityPrecision", SCALE_MAX),
        ("onboardDate", INT64_MAX),
        ("deliveryDate", INT64_MAX),
    ):
        if not _whole(row.get(name), 0, most):
            return f"has no usable {name}"
    return ""


def _listing(row: dict[str, Any]) -> Listing:
    return Listing(
        symbol=row["symbol"],
        generation=row["onboardDate"],
        price_scale=row["pricePrecision"],
        qty_scale=row["quantityPrecision"],
        status=word_of(row.get("status")),
        delivery=row["deliveryDate"],
    )


def _whole(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def steps_of(row: Any) -> tuple[str | None, str | None]:
    """tickSize of the PRICE_FILTER and stepSize of the LOT_SIZE in a symbol of exchangeInfo, as the exchange writes
    them; None where there is none.

    Both decide what prices and quantities an order may have. pricePrecision may be finer: "please do not use it as
    tickSize" (Binance USDⓈ-M docs, "Exchange Information").
    """
    filters = row.get("filters") if isinstance(row, dict) else None
    usable = [each for each in filters if isinstance(each, dict)] if isinstance(filters, list) else []
    return _step_in(usable, "PRICE_FILTER", "tickSize"), _step_in(usable, "LOT_SIZE", "stepSize")


def _step_in(filters: Sequence[dict[str, Any]], kind: str, name: str) -> str | None:
    value = next((each.get(name) for each in filters if each.get("filterType") == kind), None)
    return value if isinstance(value, str) and _DECIMAL.fullmatch(value) else None
