"""The exchange's split of aggTrades at a close, adopted where own bars and ids prove it (klagg.edge_splits). Pure.

The auditor of the exchange writes an `edges` entry with the exchange's rows of minutes that differ. What it claims is
judged here, by the bars that are held. So what is published stays a function of the log: a restart that reads the feed
on judges and publishes the same. The fills are moved in every bar that cuts at that close, whatever its interval; bars
that are out already are amended. A claim that was granted before changes nothing, one that does not hold either.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

import numpy as np

from aggregator.edges import Edges
from aggregator.encoding import snapshot
from aggregator.finality import Finality
from aggregator.fold import BarFolder, Segments
from aggregator.official_rows import decode
from aggregator.publisher import Outputs, Publisher
from aggregator.ring import FIELD, SUMS, Ring
from aggregator.symbols import SymbolTable
from klagg.edge_splits import Split, run_from, values_of
from klagg.errors import ContractError
from klagg.intervals import MINUTE, MINUTE_MS
from klagg.kline import NINE_VALUES, Kline, Values, differences
from klagg.wire.entries import EDGE_ROWS_MAX, official_of
from klagg.wire.fields import RawFields
from klagg.wire.findings import FindingKind, Severity, finding_entry

ROWS_MAX: Final = 20_000
"""Rows of claims that may come between two ticks; an entry with more goes to `dead`."""
LAST_ID: Final = FIELD["last_trade_id"]


@dataclass(frozen=True, slots=True)
class Claim:
    """The exchange's rows of consecutive minutes of a symbol, by open time (exchange ms), the nine values of each."""

    symbol: str
    rows: dict[int, Values]

    @property
    def key(self) -> tuple[str, str]:
        """Claims are judged in this order, whatever the order in which they came; equal ones are one."""
        return self.symbol, str(sorted((opening, sorted(row.items())) for opening, row in self.rows.items()))


class EdgeClaims:
    """What was claimed since the last tick, and what of it holds."""

    def __init__(
        self,
        ring: Ring,
        symbols: SymbolTable,
        edges: Edges,
        finality: Finality,
        folder: BarFolder,
        publisher: Publisher,
        *,
        adopts: bool,
    ) -> None:
        """With `adopts` False claims are read and change nothing."""
        self._ring, self._symbols, self._edges, self._finality = ring, symbols, edges, finality
        self._folder, self._publisher, self._adopts = folder, publisher, adopts
        self._minutes_at = ring.intervals.index(MINUTE) if MINUTE in ring.intervals else None
        self._claims: dict[tuple[str, str], Claim] = {}

    def gather(self, raw: RawFields) -> None:
        """Take in an `edges` entry; ContractError if it cannot be one, or if too many come."""
        claim = claim_of(raw)
        if sum(len(each.rows) for each in self._claims.values()) + len(claim.rows) > ROWS_MAX:
            raise ContractError(f"more than {ROWS_MAX} rows about edges come between two ticks")
        if self._adopts and self._minutes_at is not None:
            self._claims[claim.key] = claim

    @property
    def pressing(self) -> bool:
        """Whether there is something to judge, for which all bars must have all their trades."""
        return bool(self._claims)

    def apply(self, outputs: Outputs) -> int:
        """Judge what was claimed, and move the fills of what holds; how many splits were adopted. A finding names each
        claim that own bars contradict. One about bars that are not held any more, or not proven, is passed over."""
        claims, self._claims, adopted = self._claims, {}, 0
        for _, claim in sorted(claims.items()):
            bars = self._held(claim)
            if not any(differences(values_of(each), claim.rows[each.open_time]) for each in bars.values()):
                continue
            run = run_from(MINUTE, min(claim.rows), bars, claim.rows)
            if run is None or len(run.klines) != len(claim.rows):
                outputs.findings.append(_refused(claim, outputs.time_ms))
                continue
            for split in run.splits:
                self._move(self._symbols.index[claim.symbol.encode()], split)
            adopted += len(run.splits)
        return adopted

    def _held(self, claim: Claim) -> dict[int, Kline]:
        """The minutes of a claim by open time, as they would be published now; empty if one of them is not here, or is
        not proven by own ids alone."""
        ring, at, slot = self._ring, self._minutes_at, self._symbols.index.get(claim.symbol.encode())
        opens = np.array(sorted(claim.rows), np.int64)
        if at is None or slot is None or opens[-1] // MINUTE_MS > ring.head[at]:
            return {}
        buckets, slots = opens // MINUTE_MS, np.full(len(opens), slot)
        rows = ring.rows_of(at, buckets)
        there = (ring.row_bucket[rows] == buckets) & (ring.revision[rows, slots] > 0) & ~ring.broken[rows, slots]
        if not there.all() or not self._finality.proven(slots, opens, opens + MINUTE_MS).all():
            return {}
        bars = snapshot(ring, self._symbols, at, rows, slots)
        if not bars.complete.all():
            return {}
        entries = bars.klines(0, self._publisher.evidence(bars), bars.nine_values())
        return {kline.open_time: kline for kline in map(Kline.from_fields, entries)}

    def _move(self, slot: int, split: Split) -> None:
        """Move the fills of a split over its close, in every interval that has a close there."""
        ring, close_ms = self._ring, split.close_ms
        trade = next(each for each in self._edges.at(close_ms)[slot] if each[0] == split.edge.id)
        price, qty = trade[4], int(split.qty.scaleb(int(self._symbols.qty_scale[slot])))
        self._edges.adopt(
            close_ms, slot, (split.edge.id, split.first_moved, split.edge.last, trade[3], price, qty, trade[6])
        )
        for at, kind in enumerate(ring.intervals):
            later = kind.bucket_of(close_ms)
            rows = ring.row_of(at, later - 1), ring.row_of(at, later)
            there = tuple(int(each) for each in ring.row_bucket[list(rows)]) == (later - 1, later)
            if kind.open_of(later) != close_ms or not there:
                continue  # bars below a minute leave the ring early
            part = _part(slot, later, split, price, qty)
            cell = rows[0] * ring.capacity + slot
            for name in SUMS:
                ring.state[cell, FIELD[name]] -= getattr(part, name)[0]
            if ring.state[cell, LAST_ID] == split.edge.last:
                ring.state[cell, LAST_ID] = split.first_moved - 1
            ring.touch(np.array([cell]))
            self._folder.merge_moved(at, part)

    def expire(self) -> None:
        """Forget what was moved over boundaries at which no bar opens or closes that is still held."""
        for close_ms in [each for each in self._edges.adopted if not self._is_held(each)]:
            del self._edges.adopted[close_ms]

    def _is_held(self, close_ms: int) -> bool:
        kinds = enumerate(self._ring.intervals)
        return any(
            kind.open_time(close_ms) == close_ms and kind.bucket_of(close_ms) >= self._ring.oldest(at)
            for at, kind in kinds
        )


def claim_of(raw: RawFields) -> Claim:
    """The content of an `edges` entry; ContractError if it is none."""
    entry, answer = official_of(raw), decode(raw)
    opens = answer.rows.open_time
    if entry.interval != MINUTE.name or not 2 <= entry.count <= EDGE_ROWS_MAX:
        raise ContractError(
            f"an edges entry has {entry.count} rows of {entry.interval!r}: it needs 2 to {EDGE_ROWS_MAX} minutes"
        )
    if answer.refused or (np.diff(opens) != MINUTE_MS).any():
        why = answer.refused[0][1] if answer.refused else "its minutes do not follow each other"
        raise ContractError(f"an edges entry of {entry.symbol} cannot be used: {why}")
    columns = {name: entry.columns[name].decode().split(",") for name in NINE_VALUES}
    rows: dict[int, Values] = {}
    for at, opening in enumerate(opens.tolist()):
        texts = {name: column[at] for name, column in columns.items()}
        rows[opening] = {name: int(text) if name == "trades" else Decimal(text) for name, text in texts.items()}
    return Claim(entry.symbol, rows)


def _part(slot: int, bucket: int, split: Split, price: int, qty: int) -> Segments:
    """The moved fills as a part of the bar that gets them: its first trade, in its first minute. Price and quantity are
    mantissas at the symbol's scales."""

    def one(value: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.array([value], np.int64)

    minute, taken = split.close_ms // MINUTE_MS, not split.edge.maker
    return Segments(
        slot=one(slot),
        bucket=one(bucket),
        open_minute=one(minute),
        open_id=one(split.edge.id),
        open=one(price),
        close_minute=one(minute),
        close_id=one(split.edge.id),
        close=one(price),
        high=one(price),
        low=one(price),
        volume=one(qty),
        quote_volume=one(price * qty),
        trades=one(split.fills),
        taker_buy_volume=one(qty * taken),
        taker_buy_quote_volume=one(price * qty * taken),
        first_trade_id=one(split.first_moved),
        last_trade_id=one(split.edge.last),
        agg=np.ones(1, np.bool_),
    )


def _refused(claim: Claim, time_ms: int) -> dict[str, str]:
    evidence = (
        f"{len(claim.rows)} official rows, open times {min(claim.rows)} to {max(claim.rows)}, differ from the own "
        "minutes by more than the later fills of aggTrades at their closes: no fill is moved"
    )
    return finding_entry(FindingKind.OFFICIAL_REFUSED, Severity.WARNING, evidence, symbol=claim.symbol, time_ms=time_ms)
