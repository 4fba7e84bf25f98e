"""Where a shard stands, and the one transaction by which it moves on (DESIGN §1.5, §4).

The steps of a commit, and what a crash after each one leaves:

1. WATCH `commit:{n}` and read it. Nothing has happened.
2. Compare it with what this process believes. If it differs, another aggregator has taken the shard over, or Redis
   came back older than this process: the process ends, and its restart decides from what Redis holds.
3. MULTI, the outputs, the new position, EXEC. Redis runs all of it or none. A crash before EXEC leaves the old
   position: the restart reads the same log and says the same again. A crash after EXEC leaves the new one: the restart
   is silent up to it. A lost reply leaves one of the two, and the process ends, because it cannot know which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from aggregator.outputs import Outputs
from klagg import contract
from klagg.contract import Fields, Keys
from klagg.errors import ContractError
from klagg.redisio import Append, HashUpdate, Streams, Write

START = "0-0"
LIVE_ENTRIES = 600
EVENT_ENTRIES = 50_000
REQUEST_ENTRIES = 50_000
FINDING_ENTRIES = 10_000
STREAMS = ("klines", "live", "events", "requests", "findings", "dead")
"""Streams that a commit appends to, in this order; each has its own running number."""


@dataclass(frozen=True, slots=True)
class Position:
    """`epoch` counts the aggregators that owned the shard, `seq` their commits; `feed` is the id of the last entry
    whose outputs are out, and `step` how many outputs of the tick behind it are out too (0 but within a long jump);
    `numbers` is the last `seq` of each output stream."""

    epoch: int = 0
    seq: int = 0
    feed: str = START
    step: int = 0
    numbers: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(STREAMS, 0))

    def to_fields(self) -> Fields:
        numbers = {f"seq_{name}": str(number) for name, number in self.numbers.items()}
        return {"epoch": str(self.epoch), "seq": str(self.seq), "feed": self.feed, "step": str(self.step), **numbers}

    @classmethod
    def from_hash(cls, raw: Mapping[bytes, bytes]) -> Position:
        """The position in `commit:{n}`; the start if there is none. ContractError if it is damaged."""
        if not raw:
            return cls()
        numbers = {name: contract.integer_of(raw, f"seq_{name}") for name in STREAMS}
        position = cls(
            contract.integer_of(raw, "epoch"), contract.integer_of(raw, "seq"), contract.text_of(raw, "feed"),
            contract.integer_of(raw, "step"), numbers,
        )  # fmt: skip
        if not all(part.isdigit() for part in position.feed.split("-")) or position.feed.count("-") != 1:
            raise ContractError(f"the commit hash holds the feed id {position.feed!r}")
        return position


def after(one: str, other: str) -> bool:
    """Whether stream id `one` comes after `other`."""
    return _parts(one) > _parts(other)


def _parts(entry_id: str) -> tuple[int, int]:
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number)


class Committer:
    """Owns a shard's `commit:{n}` for one epoch. Every error of `commit` is the end of this process."""

    def __init__(self, streams: Streams, keys: Keys, writer: str) -> None:
        self._streams, self._keys, self._writer = streams, keys, writer
        self._believed: dict[bytes, bytes] = {}
        self._live_id = START
        self.position = Position()

    def take_over(self) -> Position:
        """Take the next epoch, which fences whoever had the shard; the position reached so far."""
        self._believed = self._streams.hash_of(self._keys.commit)
        found = Position.from_hash(self._believed)
        self._move_to(replace(found, epoch=found.epoch + 1, seq=found.seq + 1), [])
        newest = self._streams.newest(self._keys.live)
        self._live_id = newest[0].id if newest else START
        return self.position

    def commit(self, outputs: Outputs, feed_id: str, more: Sequence[Write] = ()) -> None:
        """Outputs of the tick `feed_id` and the position behind them, in one transaction, with `more` writes to it."""
        numbers = dict(self.position.numbers)
        writes: list[Write] = []
        limits = {
            "live": LIVE_ENTRIES,
            "events": EVENT_ENTRIES,
            "requests": REQUEST_ENTRIES,
            "findings": FINDING_ENTRIES,
            "dead": contract.DEAD_ENTRIES,
        }
        for name in STREAMS:
            for fields in getattr(outputs, name):
                numbers[name] += 1
                stamped = contract.stamp(fields, self._writer, numbers[name])
                writes.append(Append(getattr(self._keys, name), stamped, limits.get(name, 0)))
        if outputs.bars:
            writes.append(HashUpdate(self._keys.bars, {**outputs.bars, contract.BARS_POSITION: self._live_id}))
        if outputs.bars_gone:
            writes.append(HashUpdate(self._keys.bars, remove=outputs.bars_gone))
        was = self.position
        feed, step = (feed_id, 0) if outputs.last else (was.feed, was.step + 1)
        self._move_to(Position(was.epoch, was.seq + 1, feed, step, numbers), [*writes, *more])
        if outputs.bars:
            self._live_id = self._newest_live()

    def _newest_live(self) -> str:
        """The newest `live` id: everything up to it is reflected by what the next `bars` will say."""
        newest = self._streams.newest(self._keys.live)
        return newest[0].id if newest else START

    def _move_to(self, position: Position, writes: Sequence[Write]) -> None:
        fields = position.to_fields()
        self._streams.commit(self._keys.commit, self._believed, fields, writes)
        self._believed = {name.encode(): value.encode() for name, value in fields.items()}
        self.position = position
