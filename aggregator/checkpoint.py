"""The aggregator's state as bytes and back, in blocks of symbols small enough that no other Redis client waits for one.

Pure. A checkpoint is a copy of the core right after a tick: a header (JSON) with everything that is small, and one
compressed block for every BLOCK_SYMBOLS symbols of the ring, and for every BLOCK_PARKED parked trades. A restart loads
it and reads the log on from its position.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, astuple
from typing import Any

import numpy as np
import ujson

from aggregator.columns import TRADE_ARRAYS, TRADE_FLAGS
from aggregator.core import Core
from aggregator.ledger import Gap
from aggregator.official_coverage import Coverage
from aggregator.official_rows import OfficialRows
from aggregator.ring import BAR_FLAGS, BAR_INTEGERS, NO_BUCKET, NO_ID
from klagg.errors import KlaggError

FORMAT = 7
FORMAT_OF_VERSION_1 = 5
"""The format that the contract's version 1 wrote: the values of version 2's, some of them under other names."""
FORMAT_OF_VERSION_2 = 6
"""The format that the contract's version 2 wrote, whose blocks lack the flag `covered`."""
FORMATS = (FORMAT, FORMAT_OF_VERSION_1, FORMAT_OF_VERSION_2)

BLOCK_SYMBOLS = 24
"""About 0.8 MB raw and far less compressed with the default intervals."""

BLOCK_PARKED = 8_000
"""About 0.7 MB of JSON before it is compressed."""

_OF_LEDGER = ("last_id", "last_time", "near_time", "start_time")
_BY_SYMBOL = ("cursor", "carry", "shown")


class CheckpointDamaged(KlaggError):
    """A checkpoint does not hold what it must."""


class Checkpoint:
    """A copy of a core's state; copying is quick, and blocks are compressed one by one in `block`."""

    def __init__(self, core: Core) -> None:
        core.bar_folder.settle()
        count = core.symbols.count
        ring = core.ring
        self._arrays = {
            name: getattr(ring, name)[:, :count].copy() for name in (*_BY_SYMBOL, *BAR_INTEGERS, *BAR_FLAGS)
        }
        self._count = count
        self._parked = core.listings.parking.dump()
        self.header = _header(core)

    @property
    def blocks(self) -> int:
        """How many blocks there are."""
        return self._symbol_blocks + -(-len(self._parked) // BLOCK_PARKED)

    @property
    def _symbol_blocks(self) -> int:
        return -(-self._count // BLOCK_SYMBOLS)

    def block(self, number: int) -> bytes:
        """The block of that number, compressed with zlib."""
        if number >= self._symbol_blocks:
            first = (number - self._symbol_blocks) * BLOCK_PARKED
            parked = ujson.dumps(self._parked[first : first + BLOCK_PARKED], ensure_ascii=False)
            return zlib.compress(parked.encode(), 1)
        columns = slice(number * BLOCK_SYMBOLS, (number + 1) * BLOCK_SYMBOLS)
        return zlib.compress(b"".join(array[:, columns].tobytes() for array in self._arrays.values()), 1)


def layout_of(core: Core) -> str:
    """What a checkpoint must agree on with the core that loads it."""
    return f"{FORMAT}/{_layout_behind_format(core)}"


def _layout_behind_format(core: Core) -> str:
    intervals = ",".join(interval.name for interval in core.ring.intervals)
    return f"{intervals}/{','.join(map(str, core.ring.sizes))}"


def _header(core: Core) -> str:
    count, ledger, symbols = core.symbols.count, core.ledger, core.symbols
    return ujson.dumps(
        {
            "layout": layout_of(core),
            "time_ms": core.time_ms,
            "live_long_due": core.live_long_due,
            "live_turn": core.live_turn,
            "names": symbols.names,
            "statuses": symbols.statuses,
            "symbols": {
                name: getattr(symbols, name)[:count].tolist() for name in ("price_scale", "qty_scale", "generation")
            },
            "ledger": {name: getattr(ledger, name)[:count].tolist() for name in _OF_LEDGER},
            "gaps": _gaps_out(ledger.gaps),
            "lost": _gaps_out(ledger.lost),
            "listings": _listings_out(core),
            "parked": len(core.listings.parking.rows),
            "end_ms": core.ring.end_ms[:count].tolist(),
            "alive_until": core.finality.alive_until[:count].tolist(),
            "official": _official(core),
            "agg_ids": core.agg_ids[:count].tolist(),
            "head": core.ring.head.tolist(),
            "row_bucket": core.ring.row_bucket.tolist(),
            "edges": [[boundary, found.tolist()] for boundary, found in core.edges.found.items()],
            "adopted": [[boundary, moved.tolist()] for boundary, moved in core.edges.adopted.items()],
            "held": {name: getattr(core.held, name).tolist() for name in TRADE_ARRAYS},
            "continuity": core.feed_sequences.to_rows(),
            "silences": core.silences.to_rows(),
            "first_trades": core.bar_folder.first_trades,
            "asking": core.repair_requests.state(),
            "witnesses": core.witnesses.state(),
            "counts": asdict(core.counts),
        },
        ensure_ascii=False,
    )


def restore(core: Core, header: str, blocks: Sequence[bytes]) -> None:
    """Put a checkpoint into a fresh core of the same layout (see `fits`).

    CheckpointDamaged if header and blocks do not hold what they must; the core is of no use then.
    """
    try:
        _restore(core, _upgraded(ujson.loads(header)), blocks)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, zlib.error) as bad:
        raise CheckpointDamaged(f"the checkpoint is damaged: {bad}") from bad


def _upgraded(state: dict[str, Any]) -> dict[str, Any]:
    """A header under the names of this format."""
    if not state["layout"].startswith(f"{FORMAT_OF_VERSION_1}/"):
        return state
    official, counts = dict(state["official"]), dict(state["counts"])
    official["carried_from"] = official.pop("marked_from")
    counts["gaps_opened"], counts["gaps_closed"] = counts.pop("holes_opened"), counts.pop("holes_closed")
    return {**state, "gaps": state["holes"], "official": official, "counts": counts}


def _restore(core: Core, state: dict[str, Any], blocks: Sequence[bytes]) -> None:
    symbol_blocks, parked = -(-len(state["names"]) // BLOCK_SYMBOLS), state["parked"]
    if len(blocks) != symbol_blocks + -(-parked // BLOCK_PARKED):
        raise CheckpointDamaged(f"{len(blocks)} blocks for {len(state['names'])} symbols and {parked} parked trades")
    core.symbols.load(state["names"], state["statuses"])
    core.grow()
    count, symbols, ledger, ring = core.symbols.count, core.symbols, core.ledger, core.ring
    for owner, part in ((symbols, "symbols"), (ledger, "ledger")):
        for name, values in state[part].items():
            getattr(owner, name)[:count] = values
    ledger.gaps, ledger.lost = _gaps_in(state["gaps"]), _gaps_in(state["lost"])
    _listings_in(core, state["listings"])
    ring.end_ms[:count] = state["end_ms"]
    core.finality.alive_until[:count] = state["alive_until"]
    _restore_official(core, state["official"])
    core.agg_ids[:count] = state["agg_ids"]
    ring.head[:] = state["head"]
    ring.row_bucket[:] = state["row_bucket"]
    core.edges.found = {boundary: np.array(found, np.int64).reshape(8, -1) for boundary, found in state["edges"]}
    core.edges.adopted = {
        boundary: np.array(moved, np.int64).reshape(8, -1)
        for boundary, moved in state.get("adopted", ())  # absent in what was written before splits were adopted
    }
    for name in TRADE_ARRAYS:
        setattr(core.held, name, np.array(state["held"][name], np.bool_ if name in TRADE_FLAGS else np.int64))
    core.feed_sequences.restore(state["continuity"])
    core.silences.restore(state.get("silences", ()))
    core.repair_requests.put_back(state["asking"])
    core.counts = type(core.counts)(**state["counts"])
    core.bar_folder.first_trades = [(slot, interval, opening) for slot, interval, opening in state["first_trades"]]
    core.time_ms, core.live_long_due = state["time_ms"], state["live_long_due"]
    core.live_turn = state.get("live_turn", 0)  # absent in what was written before bars took turns
    arrays = _arrays_of(state["layout"])
    for number, block in enumerate(blocks[:symbol_blocks]):
        _restore_block(core, number, zlib.decompress(block), arrays)
    if "witnesses" in state:
        core.witnesses.put_back(state["witnesses"])
    else:  # written before there were witnesses: the bars know the last fill
        core.witnesses.fill_id[:count] = ring.last_trade_id[:, :count].max(axis=0)
    if "covered" not in arrays:
        for slot, (starts, ends) in ledger.coverage.ranges.items():
            ring.cover(slot, starts, ends)
    for block in blocks[symbol_blocks:]:
        core.listings.parking.load(ujson.loads(zlib.decompress(block)))
    if len(core.listings.parking.rows) != parked:
        raise CheckpointDamaged(f"{len(core.listings.parking.rows)} parked trades instead of {parked}")
    shown = ring.row_bucket[:, None] == ring.shown[ring.row_interval][:, :count]
    begun = shown & (ring.shown[ring.row_interval][:, :count] != NO_BUCKET) | (ring.open_id[:, :count] != NO_ID)
    ring.live_changed[:, :count] |= (ring.revision[:, :count] == 0) & begun
    ring.find_touched()
    core.finality.find_waiting()


def _official(core: Core) -> dict[str, Any]:
    """What official rows have left besides the bars."""
    count, official = core.symbols.count, core.official
    return {
        "live_from": official.live_from[:count].tolist(),
        "carried_from": core.finality.carried_from[:count].tolist(),
        "official_until": core.finality.official_until[:count].tolist(),
        "begun": core.finality.begun[:count].tolist(),
        "coverage": _ranges_out(core.ledger.coverage),
        "nothing": _ranges_out(official.nothing),
        "waiting": official.waiting.cells.tolist(),
        "borrowed": sorted([*key, trades] for key, trades in core.ring.borrowed.items()),
    }


def _restore_official(core: Core, state: dict[str, Any]) -> None:
    count, official = core.symbols.count, core.official
    official.live_from[:count] = state["live_from"]
    for name in ("carried_from", "official_until", "begun"):
        getattr(core.finality, name)[:count] = state[name]
    for coverage, name in ((core.ledger.coverage, "coverage"), (official.nothing, "nothing")):
        for slot, starts, ends in state[name]:
            coverage.add(slot, np.array(starts, np.int64), np.array(ends, np.int64))
    official.waiting = OfficialRows(np.array(state["waiting"], np.int64))
    core.ring.borrowed = {(at, bucket, slot): trades for at, bucket, slot, trades in state["borrowed"]}


def _ranges_out(coverage: Coverage) -> list[list[Any]]:
    return [[slot, *coverage.ranges[slot].tolist()] for slot in sorted(coverage.ranges)]


def fits(core: Core, header: str) -> bool:
    """Whether the checkpoint was made with the intervals and window that this core has; not if it is no checkpoint."""
    layouts = (f"{each}/{_layout_behind_format(core)}" for each in FORMATS)
    try:
        return ujson.loads(header)["layout"] in layouts
    except (ValueError, KeyError, TypeError):
        return False


def _arrays_of(layout: str) -> tuple[str, ...]:
    """The arrays of the ring in the blocks of a checkpoint with this layout, in their order."""
    flags = BAR_FLAGS if layout.startswith(f"{FORMAT}/") else tuple(name for name in BAR_FLAGS if name != "covered")
    return (*_BY_SYMBOL, *BAR_INTEGERS, *flags)


def _restore_block(core: Core, number: int, data: bytes, arrays: Sequence[str]) -> None:
    first = number * BLOCK_SYMBOLS
    columns = slice(first, min(first + BLOCK_SYMBOLS, core.symbols.count))
    width, at = columns.stop - columns.start, 0
    for name in arrays:
        array = getattr(core.ring, name)
        size = len(array) * width * array.itemsize
        array[:, columns] = np.frombuffer(data, array.dtype, len(array) * width, at).reshape(len(array), width)
        at += size
    if at != len(data):
        raise CheckpointDamaged(f"block {number} holds {len(data)} bytes instead of {at}")


def _listings_out(core: Core) -> dict[str, Any]:
    count, listings = core.symbols.count, core.listings
    return {
        "gone": listings.gone[:count].tolist(),
        "genesis_due": listings.genesis_due[:count].tolist(),
        "before": [[slot, *found] for slot, found in listings.before.items()],
        "freed": listings.freed,
        "first_tick_ms": listings.first_tick_ms,
    }


def _listings_in(core: Core, state: dict[str, Any]) -> None:
    count, listings = core.symbols.count, core.listings
    listings.gone[:count], listings.genesis_due[:count] = state["gone"], state["genesis_due"]
    listings.before = {slot: (last_id, last_time) for slot, last_id, last_time in state["before"]}
    listings.freed, listings.first_tick_ms = state["freed"], state["first_tick_ms"]


def _gaps_out(gaps: Mapping[int, Sequence[Gap]]) -> list[list[Any]]:
    return [[slot, [list(astuple(gap)) for gap in found]] for slot, found in gaps.items()]


def _gaps_in(state: list[list[Any]]) -> dict[int, list[Gap]]:
    return {slot: [Gap(*gap) for gap in found] for slot, found in state}


def block_keys(prefix: str, count: int) -> Iterator[str]:
    """The keys of a checkpoint's blocks."""
    return (f"{prefix}:{number}" for number in range(count))
