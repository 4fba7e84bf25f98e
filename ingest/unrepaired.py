"""What repair could not get from the exchange, named exactly. Pure.

It is not the last word: the aggregator asks again while its window lasts, by klines where trades did not help, and says
itself what stays missing for good.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from klagg.wire.entries import REQUEST_TRADES, Request
from klagg.wire.fields import Fields
from klagg.wire.findings import FindingKind, Severity, finding_entry


def given_up(request: Request, reason: str, time_ms: int) -> Fields:
    """The exchange will never answer this request."""
    evidence = f"the request {request.id} for {_wanted(request)} is given up: {reason}"
    return finding_entry(FindingKind.UNREPAIRED, Severity.ERROR, evidence, symbol=request.symbol, time_ms=time_ms)


def gone(request: Request, ids: Sequence[tuple[int, int]], time_ms: int) -> Fields:
    """The exchange answered, and lacks these ids (ranges, both ends included)."""
    count = sum(last - first + 1 for first, last in ids)
    named = ", ".join(_span(first, last) for first, last in ids)
    evidence = f"the exchange no longer has {count} trades: ids {named}"
    return finding_entry(FindingKind.UNREPAIRED, Severity.WARNING, evidence, symbol=request.symbol, time_ms=time_ms)


def _wanted(request: Request) -> str:
    if request.kind == REQUEST_TRADES:
        return f"the trades with the ids {_span(request.first, request.last)}"
    first, last = (
        f"{datetime.fromtimestamp(each / 1000, UTC):%Y-%m-%d %H:%M}" for each in (request.first, request.last)
    )
    return f"the {request.interval} klines that open from {first} until before {last} (UTC)"


def _span(first: int, last: int) -> str:
    return f"{first}" if first == last else f"{first} to {last}"
