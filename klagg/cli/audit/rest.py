"""The exchange's klines for `klagg audit` without files: over REST, within the weight that `klagg backfill` may use."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from itertools import groupby
from typing import Final

from klagg.binance.kline_rows import told_by_rest
from klagg.cli.backfill.rest import RestHistory, parts_of
from klagg.errors import ConfigError, KlaggError
from klagg.intervals import HOUR_MS, Interval, ordered
from klagg.kline import Values
from klagg.process.stats import Stats
from klagg.recordings import Refuse, RefusedRow
from klagg.settings import Settings
from klagg.wire.entries import OFFICIAL_COLUMNS
from writers.backfill_parts import Failure, OfficialRow, Part

LAST_MS: Final = HOUR_MS
"""Without a range, bars that opened so long ago at most."""


class NoAnswer(KlaggError):
    """The exchange did not tell of what was to be compared."""


def official(
    settings: Settings,
    symbols: Sequence[str],
    intervals: Sequence[Interval],
    from_ms: int | None,
    to_ms: int | None,
    refuse: Refuse,
) -> Iterator[tuple[str, Interval, int, dict[int, Values]]]:
    """The exchange's rows of the symbols (none: all that are carried) and intervals (none: all that it has), by open
    time, in parts of a month or a year: with the open time from which on they are to be compared; the row before it is
    there to prove shifts. Without times the last hour, whose bars are closed for certain.

    `refuse` gets rows that cannot be klines.

    ConfigError for unknown symbols; NoAnswer, ExchangeUnavailable or RedisUnavailable if the exchange cannot be asked.
    """
    untold = [each.name for each in intervals if not told_by_rest(each)]
    if untold:
        raise ConfigError(f"the exchange has no klines of {', '.join(untold)}")
    intervals = intervals or [each for each in ordered(settings.aggregator.intervals) if told_by_rest(each)]
    if not settings.redis.url:
        raise ConfigError("the REST weight is shared in Redis: set redis.url, or name dumps with --klines")
    history = RestHistory(settings, Stats(), threading.Event())
    market = history.market(symbols)
    end_ms = market.now_ms if to_ms is None else to_ms
    begin_ms = min(end_ms, market.now_ms) - LAST_MS if from_ms is None else from_ms
    first_ms = {_with_lead(part): part.from_ms for part in parts_of(market, intervals, begin_ms, end_ms)}
    for part, batches in groupby(history.batches(first_ms), key=lambda each: each.part):
        rows: dict[int, Values] = {}
        for each in batches:
            if isinstance(each, Failure) and each.row:
                refuse(RefusedRow("REST", 0, each.reason))
                continue
            if isinstance(each, Failure):
                raise NoAnswer(each.reason)
            rows.update(map(_values, each.rows))
        if any(opening >= first_ms[part] for opening in rows):
            yield part.symbol, part.interval, first_ms[part], rows


def _with_lead(part: Part) -> Part:
    bars = part.interval
    first_ms = bars.open_of(bars.bucket_of(part.from_ms - 1) + 1)
    return replace(part, from_ms=max(0, bars.open_of(bars.bucket_of(first_ms) - 1)))


def _values(row: OfficialRow) -> tuple[int, Values]:
    """A row of a dump: open time, prices, volume, close time, quote volume, trades and what takers bought."""
    opened, *prices, _closes, quote, trades, taker, taker_quote = row
    names = [each for each in OFFICIAL_COLUMNS[1:] if each != "trades"]
    values = zip(names, (*prices, quote, taker, taker_quote), strict=True)
    return int(opened), {**{name: Decimal(value) for name, value in values}, "trades": int(trades)}
