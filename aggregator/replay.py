"""Recorded trades through the real aggregator core, without a server: what `klagg replay` runs.

Trades become feed entries as ingest writes them; a tick follows every batch. Ids prove the bars, no clock closes one
before its trades are in; only the last bars, behind which no trade follows, are closed by a last tick.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from aggregator.core import TOO_FINE, Core
from klagg import settings
from klagg.errors import ContractError
from klagg.intervals import Interval
from klagg.kline import Kline
from klagg.wire.entries import TradeRow, tick_entry, trades_entry_of_rows
from klagg.wire.fields import Fields, stamp
from klagg.wire.findings import FindingKind

BATCH_ROWS = 4096
BATCH_MS = 60_000
"""A batch spans no more recorded time than this, so that no trade is late for its tick."""


Refuse = Callable[[str], None]
"""Receives a sentence that names trades, by symbol and ids, that are in no kline, and why."""


def replay(rows: Iterable[TradeRow], ids: str, interval: Interval, refuse: Refuse | None = None) -> Iterator[Kline]:
    """Every version of every kline of `interval` that the trades give, in the order of publication.

    `refuse` is told trades that are too fine for their symbol, those whose time is older than the aggregator's window,
    and those that come behind the first batch though their ids are below its first: bars begin there. The others count
    all the same. ContractError for these without `refuse`, and for whatever else the core refuses: a recording has no
    business holding it.
    """
    refuse = refuse or _raise
    floors: dict[str, int] = {}
    core = Core(settings.Aggregator(intervals=(interval.name,)), requests_repairs=False)
    last_ms = 0
    for batch in _batches(rows):
        for sentence in _below(floors, batch):
            refuse(sentence)
        core.apply("", _raw(trades_entry_of_rows(batch, line="replay", ids=ids, recv_ms=batch[-1].time)))
        last_ms = max(last_ms, *(row.time for row in batch))
        yield from _ticked(core, last_ms, refuse)
    if last_ms:
        ending = interval.open_of(interval.bucket_of(last_ms) + 1)
        end_ms = ending + settings.Aggregator().grace_without_watermark_ms
        yield from (kline for kline in _ticked(core, end_ms, refuse) if kline.open_time < ending)


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


def _raise(sentence: str) -> None:
    raise ContractError(sentence)


def _below(floors: dict[str, int], batch: list[TradeRow]) -> Iterator[str]:
    """A sentence for each symbol with ids in this batch below the first of its bars; `floors` learns new symbols."""
    found: dict[str, list[int]] = {}
    for row in batch:
        found.setdefault(row.symbol, []).append(row.id)
    for symbol, numbers in found.items():
        floor = floors.setdefault(symbol, min(numbers))
        late = [each for each in numbers if each < floor]
        if late:
            yield (
                f"{symbol}: {len(late)} trades, ids {min(late)} to {max(late)}: come too late, behind trades from "
                f"{floor} on, where the bars begin"
            )


def _ticked(core: Core, time_ms: int, refuse: Refuse) -> Iterator[Kline]:
    for outputs in core.apply("", _raw(tick_entry(time_ms))):
        for bad in outputs.dead:
            raise ContractError(bad["reason"])
        for finding in outputs.findings:
            sentence = f"{finding['symbol']}: {finding['kind']}: {finding['evidence']}"
            is_too_fine = finding["kind"] == FindingKind.OVERFLOW and finding["evidence"].endswith(TOO_FINE)
            of_trades = is_too_fine or finding["kind"] == FindingKind.TOO_OLD
            (refuse if of_trades else _raise)(sentence)
        for fields in outputs.encode().klines:
            yield Kline.from_fields(fields)
