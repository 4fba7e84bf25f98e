"""`klagg bench core`: decoded columns in, ledger, fold and a tick's decisions out; one core, no I/O, no texts."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from aggregator import columns
from aggregator.core import Core
from klagg import settings
from klagg.bench.trades import PRICE_SCALE, QTY_SCALE, START_MS, TradeGenerator, Trades
from klagg.intervals import MINUTE_MS
from klagg.wire.entries import tick_entry
from klagg.wire.fields import stamp

TITLE = "the aggregator's core: trades in columns through ledger, fold and ticks"
TICK_MS = 250
WARM = 40
"""Batches before the measuring begins: the first ones find new symbols and new memory."""


def configure(parser: argparse.ArgumentParser) -> None:
    """The options of this bench."""
    parser.add_argument("--symbols", type=int, default=600, help="how many symbols trade (600)")
    parser.add_argument("--batch", type=int, default=16_384, help="trades in a batch, each followed by a tick (16384)")
    parser.add_argument("--batches", type=int, default=480, help="batches to measure (480, two minutes of ticks)")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Trades a second over all measured batches, and those of a bare sort and fold of the same columns."""
    config = settings.Aggregator()
    core, market = Core(config), TradeGenerator(args.symbols)
    core.symbols.add_all([name.encode() for name in market.names])
    core.grow()
    core.symbols.price_scale[: args.symbols] = PRICE_SCALE
    core.symbols.qty_scale[: args.symbols] = QTY_SCALE
    core.agg_ids[: args.symbols] = 1
    _tick(core, START_MS)
    spent, bare = [], []
    for number in range(WARM + args.batches):
        at_ms = START_MS + number * TICK_MS
        trades = market.trades(args.batch, at_ms, at_ms + TICK_MS)
        at_scale = _at_scale(trades)
        spent.append(_timed(lambda trades=at_scale, end=at_ms + TICK_MS: _apply(core, trades, end)))  # type: ignore[misc]
        bare.append(_timed(lambda trades=trades: _bare_fold(trades)))  # type: ignore[misc]
    measured = np.array(spent[WARM:])
    return {
        "name": "core",
        "symbols": args.symbols,
        "intervals": len(config.intervals),
        "batch": args.batch,
        "trades_per_s": int(args.batch * len(measured) / measured.sum()),
        "median_tick_trades_per_s": int(args.batch / np.median(measured)),
        "bare_fold_trades_per_s": int(args.batch * args.batches / sum(bare[WARM:])),
        "slowest_tick_ms": round(float(measured.max()) * 1000, 2),
        "finals": core.counts.finals,
    }


def _timed(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _at_scale(trades: Trades) -> columns.Trades:
    quote = trades.price * trades.qty
    return columns.Trades(
        trades.slot,
        trades.id,
        trades.price,
        trades.qty,
        quote,
        trades.first,
        trades.last,
        trades.time,
        trades.maker,
        np.ones(len(trades.slot), np.bool_),
    )


def _apply(core: Core, trades: columns.Trades, time_ms: int) -> None:
    core.gather_trades(trades)
    _tick(core, time_ms)


def _tick(core: Core, time_ms: int) -> None:
    fields = stamp(tick_entry(time_ms), "bench", 1)
    for _ in core.apply("", {name.encode(): value.encode() for name, value in fields.items()}):
        pass


def _bare_fold(trades: Trades) -> None:
    """What numpy needs at least: sort by symbol, cut at symbols and minutes, fold; no ledger, no state, no tick."""
    order = np.argsort(trades.slot.astype(np.int16), kind="stable")
    slot, price, qty, times = (column[order] for column in (trades.slot, trades.price, trades.qty, trades.time))
    bucket = times // MINUTE_MS
    starts = np.flatnonzero(np.diff(slot, prepend=-1) | np.diff(bucket, prepend=-1))
    for fold, values in ((np.maximum, price), (np.minimum, price), (np.add, qty), (np.add, price * qty)):
        fold.reduceat(values, starts)
