"""The parameters of REST requests, checked as the exchange checks them. Pure; raises ApiError."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass

from klagg.binance.serving import errors

_NUMBER = re.compile(r"[0-9]{1,20}")
_HOUR_MS = 3_600_000
_DEFAULT_LIMIT = 500


@dataclass(frozen=True, slots=True)
class KlinesRequest:
    """`GET /fapi/v1/klines`; times in ms."""

    symbol: str
    interval: str
    start_ms: int | None
    end_ms: int | None
    limit: int


@dataclass(frozen=True, slots=True)
class AggTradesRequest:
    """`GET /fapi/v1/aggTrades`; times in ms, `from_id` inclusive."""

    symbol: str
    from_id: int | None
    start_ms: int | None
    end_ms: int | None
    limit: int


def klines_request(
    query: Mapping[str, str], symbols: Container[str], intervals: Container[str], limit_max: int
) -> KlinesRequest:
    """Checks a klines request against the listed `symbols` and the `intervals` that there are."""
    return _klines_request(query, _symbol(query, symbols), intervals, limit_max)


def continuous_klines_request(
    query: Mapping[str, str], pairs: Container[str], intervals: Container[str], limit_max: int
) -> KlinesRequest:
    """Checks a continuousKlines request for perpetual contracts; the symbol of one is the name of its pair."""
    pair = query.get("pair", "")
    if not pair:
        raise errors.mandatory("pair")
    kind = query.get("contractType", "")
    if not kind:
        raise errors.mandatory("contractType")
    if kind != "PERPETUAL":
        raise errors.invalid_data("contractType")
    if pair not in pairs:
        raise errors.invalid_symbol()
    return _klines_request(query, pair, intervals, limit_max)


def _klines_request(query: Mapping[str, str], symbol: str, intervals: Container[str], limit_max: int) -> KlinesRequest:
    interval = query.get("interval", "")
    if not interval:
        raise errors.mandatory("interval")
    if interval not in intervals:
        raise errors.invalid_interval()
    start_ms, end_ms = _times(query)
    return KlinesRequest(symbol, interval, start_ms, end_ms, _limit(query, limit_max))


def agg_trades_request(query: Mapping[str, str], symbols: Container[str], limit_max: int) -> AggTradesRequest:
    """Checks an aggTrades request against the listed `symbols`.

    An hour to the millisecond is taken, as ccxt asks for it (`fetch_trades` with `since`).
    """
    symbol = _symbol(query, symbols)
    start_ms, end_ms = _times(query)
    if start_ms is not None and end_ms is not None and end_ms - start_ms > _HOUR_MS:
        raise errors.interval_too_big()
    return AggTradesRequest(symbol, _number(query, "fromId"), start_ms, end_ms, _limit(query, limit_max))


def requested_limit(query: Mapping[str, str]) -> int:
    """The row limit as far as it can be read, for the weight that even a bad request costs."""
    text = query.get("limit", "")
    return int(text) if _NUMBER.fullmatch(text) else _DEFAULT_LIMIT


def _symbol(query: Mapping[str, str], symbols: Container[str]) -> str:
    symbol = query.get("symbol", "")
    if not symbol:
        raise errors.mandatory("symbol")
    if symbol not in symbols:
        raise errors.invalid_symbol()
    return symbol


def _number(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    if not _NUMBER.fullmatch(text):
        raise errors.illegal_characters(name)
    return int(text)


def _times(query: Mapping[str, str]) -> tuple[int | None, int | None]:
    start_ms, end_ms = _number(query, "startTime"), _number(query, "endTime")
    if start_ms is not None and end_ms is not None and start_ms > end_ms:
        raise errors.start_after_end()
    return start_ms, end_ms


def _limit(query: Mapping[str, str], limit_max: int) -> int:
    limit = _number(query, "limit")
    if limit is None:
        return _DEFAULT_LIMIT
    if not 1 <= limit <= limit_max:
        raise errors.invalid_data("limit")
    return limit
