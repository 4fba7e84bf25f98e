"""Edge evidence: what is kept, for whom, and how little of it."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aggregator.columns import Trades
from aggregator.edges import EDGE_MS, EDGES_MAX, Edges
from klagg.intervals import MINUTE_MS
from tests.aggregator.kit import T0
from tests.aggregator.test_fold import Plain, trades, trades_of


def expected(plain: list[Plain], finest_ms: int) -> dict[tuple[int, int], list[tuple[int, ...]]]:
    """The slow way: the last eight by id of every slot and boundary."""
    found: dict[tuple[int, int], list[tuple[int, ...]]] = {}
    for row in sorted(plain, key=lambda row: row["id"]):
        if row["last"] > row["first"] and row["time"] % finest_ms >= finest_ms - EDGE_MS:
            key = row["slot"], row["time"] // finest_ms * finest_ms + finest_ms
            parts = ("id", "first", "last", "time", "price", "qty", "maker")
            found.setdefault(key, []).append(tuple(row[name] for name in parts))
    return {key: edges[-EDGES_MAX:] for key, edges in found.items()}


@given(
    seed=st.integers(0, 2**32),
    finest_ms=st.sampled_from([1000, 60_000]),
    spread=st.sampled_from([150, 3000, 90_000]),
    parts=st.integers(1, 5),
)
def test_the_nearest_by_id_are_kept_in_any_order(seed: int, finest_ms: int, spread: int, parts: int) -> None:
    plain = [{**row, "time": row["time"] + MINUTE_MS - EDGE_MS} for row in trades(seed, 120, spread)]
    edges, rng = Edges(finest_ms), random.Random(seed)
    for part in range(parts):
        edges.note(trades_of(rng.sample(plain[part::parts], len(plain[part::parts]))))
    found = {(slot, at): each for at in edges.found for slot, each in edges.at(at).items()}
    assert found == expected(plain, finest_ms)
    assert edges.at(T0 - 1) == {}


def test_what_no_bar_can_ask_for_is_forgotten() -> None:
    edges = Edges(1000)
    row: Plain = {**trades(1, 1, 1)[0], "first": 1, "last": 2}
    for at in range(3 * 60):
        edges.note(trades_of([{**row, "time": T0 + at * 1000 + 999}]))
    edges.expire(T0 + MINUTE_MS, T0 + 2 * MINUTE_MS + 30_000)
    left = sorted(edges.found)
    assert left == [T0 + MINUTE_MS, T0 + 2 * MINUTE_MS, *range(T0 + 150_000, T0 + 180_001, 1000)]


def test_fill_ids_and_single_fills_are_no_evidence() -> None:
    edges = Edges(MINUTE_MS)
    near = {"time": T0 + MINUTE_MS - 1, "first": 5}
    single, fill = ({**trades(1, 1, 1)[0], **near, "last": last, "agg": agg} for last, agg in ((5, 1), (9, 0)))
    edges.note(Trades.joined([trades_of([single]), trades_of([fill])]))
    assert not any(found.size for found in edges.found.values())


def test_evidence_follows_a_raised_scale() -> None:
    edges = Edges(MINUTE_MS)
    near: Plain = {"time": T0 + MINUTE_MS - 1, "first": 5, "last": 6, "price": 7, "qty": 8}
    edges.note(trades_of([{**trades(1, 1, 1)[0], **near, "slot": slot} for slot in (0, 1)]))
    edges.rescale(1, 2, 1)
    found = edges.at(T0 + MINUTE_MS)
    assert [each[4:6] for slot in (0, 1) for each in found[slot]] == [(7, 8), (700, 80)]
    assert all(table.dtype == np.int64 for table in edges.found.values())
