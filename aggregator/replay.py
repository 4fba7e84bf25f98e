"""Recorded trades through the real aggregator core, without a server: what `klagg replay` runs.

Trades become feed entries as ingest writes them; a tick follows every batch. Ids prove the bars, no clock closes one
before its trades are in; only the last bars, behind which no trade follows, are closed by a last tick.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from aggregator.core import Core
from klagg import settings
from klagg.errors import ContractError
from klagg.intervals import Interval
from klagg.kline import Kline
from klagg.wire.entries import TradeRow, tick_entry, trades_entry_of_rows
from klagg.wire.fields import Fields, stamp

BATCH_ROWS = 4096
BATCH_MS = 60_000
"""A batch spans no more recorded time than this, so that no trade is late for its tick."""


def replay(rows: Iterable[TradeRow], ids: str, interval: Interval) -> Iterator[Kline]:
    """Every version of every kline of `interval` that the trades give, in the order of publication.

    ContractError if the core refuses something: a recording has no business holding it.
    """
    core = Core(settings.Aggregator(intervals=(interval.name,)), requests_repairs=False)
    last_ms = 0
    for batch in _batches(rows):
        core.apply("", _raw(trades_entry_of_rows(batch, line="replay", ids=ids, recv_ms=batch[-1].time)))
        last_ms = max(last_ms, *(row.time for row in batch))
        yield from _ticked(core, last_ms)
    if last_ms:
        ending = interval.open_of(interval.bucket_of(last_ms) + 1)
        end_ms = ending + settings.Aggregator().grace_without_watermark_ms
        yield from (kline for kline in _ticked(core, end_ms) if kline.open_time < ending)


def _batches(rows: Iterable[TradeRow]) -> Iterator[list[TradeRow]]:
    batch: list[TradeRow] = []
    for row in rows:
        if batch and (len(batch) == BATCH_ROWS or row.time - batch[0].time >= BATCH_MS):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _raw(fields: Fields) -> dict[bytes, bytes]:
    return {name.encode(): value.encode() for name, value in stamp(fields, "replay", 0).items()}


def _ticked(core: Core, time_ms: int) -> Iterator[Kline]:
    for outputs in core.apply("", _raw(tick_entry(time_ms))):
        for bad in outputs.dead:
            raise ContractError(bad["reason"])
        for finding in outputs.findings:
            raise ContractError(f"{finding['symbol']}: {finding['kind']}: {finding['evidence']}")
        for fields in outputs.encode().klines:
            yield Kline.from_fields(fields)
