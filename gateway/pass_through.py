"""Paths of Binance that are about data klagg does not have: forwarded to the exchange, if the configuration says so.

An answer comes back as it was, with its status and its headers. Every request weighs on this address at the exchange,
so it is paid from a share of the weight of its own, and refused with 429 where that is used up: klagg's own requests
come first.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from klagg.binance.limits import (
    ALL_BOOK_TICKERS_WEIGHT,
    ALL_PREMIUM_INDEXES_WEIGHT,
    BOOK_TICKER_WEIGHT,
    FUNDING_WEIGHT,
    OPEN_INTEREST_WEIGHT,
    PREMIUM_INDEX_WEIGHT,
    depth_weight,
    klines_weight,
)
from klagg.binance.rest_client import ExchangeRest
from klagg.binance.serving import errors
from klagg.binance.serving.parameters import requested_limit
from klagg.binance.serving.payloads import compact
from klagg.errors import ExchangeRefused, ExchangeUnavailable
from klagg.process.stats import Stats

Query = Mapping[str, str]


def _of_symbols(one: int, every: int) -> Callable[[Query], int]:
    return lambda query: one if "symbol" in query else every


def _of_rows(query: Query) -> int:
    return klines_weight(requested_limit(query))


def _of_levels(query: Query) -> int:
    return depth_weight(requested_limit(query))


FOREIGN: Final[Mapping[str, Callable[[Query], int]]] = {
    "/fapi/v1/premiumIndex": _of_symbols(PREMIUM_INDEX_WEIGHT, ALL_PREMIUM_INDEXES_WEIGHT),
    "/fapi/v1/fundingRate": lambda _: FUNDING_WEIGHT,
    "/fapi/v1/fundingInfo": lambda _: FUNDING_WEIGHT,
    "/fapi/v1/markPriceKlines": _of_rows,
    "/fapi/v1/indexPriceKlines": _of_rows,
    "/fapi/v1/premiumIndexKlines": _of_rows,
    "/fapi/v1/openInterest": lambda _: OPEN_INTEREST_WEIGHT,
    "/fapi/v1/depth": _of_levels,
    "/fapi/v1/ticker/bookTicker": _of_symbols(BOOK_TICKER_WEIGHT, ALL_BOOK_TICKERS_WEIGHT),
}
"""The paths that are forwarded, and what a request weighs."""

OF_THE_CONNECTION: Final = frozenset(
    {"connection", "content-encoding", "content-length", "keep-alive", "proxy-authenticate", "trailer"}
    | {"transfer-encoding", "upgrade"}
)
"""Headers of an answer that belong to the connection it came over (RFC 9110, 7.6.1), or to how its body was packed."""


@dataclass(frozen=True, slots=True)
class Forwarded:
    """The exchange's answer to a forwarded request, or the refusal to forward it."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class PassThrough:
    """Forwards requests over `rest`, whose gate has a share of the address' weight."""

    def __init__(self, rest: ExchangeRest, stats: Stats) -> None:
        self._rest, self._stats = rest, stats
        for name in ("passed_through", "pass_through_refused", "pass_through_failed"):
            stats.add(name, 0)  # Prometheus sees growth only in what it saw before

    def answers(self) -> list[tuple[str, Callable[[Query], int], Callable[[Query], Awaitable[object]]]]:
        """Path, weight and answer of each."""
        return [(path, weigh, self._answer(path, weigh)) for path, weigh in FOREIGN.items()]

    def _answer(self, path: str, weigh: Callable[[Query], int]) -> Callable[[Query], Awaitable[object]]:
        async def answer(query: Query) -> Forwarded:
            try:
                status, theirs, body = await self._rest.as_sent(path, weigh(query), query)
            except ExchangeRefused as refused:  # by the gate: nothing was sent
                self._stats.add("pass_through_refused")
                headers = {"Retry-After": str(math.ceil(refused.retry_after_s)), "Content-Type": "application/json"}
                told = compact(errors.ApiError(-1003, f"Too many requests; {refused}", status=429).body())
                return Forwarded(429, headers, told.encode())
            except ExchangeUnavailable:
                self._stats.add("pass_through_failed")
                raise errors.unavailable() from None
            self._stats.add("passed_through")
            kept = {name: value for name, value in theirs.items() if name.lower() not in OF_THE_CONNECTION}
            return Forwarded(status, kept, body)

        return answer
