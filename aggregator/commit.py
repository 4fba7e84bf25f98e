"""Where a shard stands, and the one transaction by which it moves on.

The steps of a commit, and what a crash after each one leaves:

1. WATCH `commit:{n}` and read it. Nothing has happened.
2. Compare it with what this process believes. If it differs, another aggregator has taken the shard over (its epoch is
   higher), or Redis came back older than this process (epoch or commit number are lower, or the hash is gone): that is
   a finding of its own. The process ends either way, and its restart decides from what Redis holds.
3. MULTI, the outputs, the new position, EXEC. Redis runs all of it or none. A crash before EXEC leaves the old
   position: the restart reads the same log and publishes the same again. A crash after EXEC leaves the new one: the
   restart is silent up to it. A lost reply leaves one of the two, and the process ends, because it cannot know which.

A large tick is committed in parts, because Redis runs a commit in one go and every other client waits for it: a day's
rollover of 750 symbols and all intervals is 9,750 klines. The cuts depend on the klines alone, which a restart
publishes again as they were, while what shows the present (`live`, `bars`) may differ. So a restart skips exactly the
parts that are out (Position.step).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from aggregator.publisher import Outputs
from klagg.drivers.redis_streams import Append, HashUpdate, Streams, Write
from klagg.errors import CommitConflict, ContractError, RedisOlder, RedisRefused, RedisUnavailable
from klagg.wire.entries import BARS_POSITION, DEAD_ENTRIES
from klagg.wire.entry_id import BEFORE_FIRST, EntryId
from klagg.wire.fields import Fields, integer_of, stamp, text_of
from klagg.wire.findings import FindingKind, Severity, finding_entry
from klagg.wire.keys import Keys

START = BEFORE_FIRST
ENTRIES_MAX = {"dead": DEAD_ENTRIES}
"""Streams that no group reads and to which other processes append too are bounded at every append; the others are
trimmed by aggregator.trimming."""
STREAMS = ("klines", "live", "events", "requests", "findings", "dead")
"""Streams that a commit appends to, in this order; each has its own running number."""
KLINES_MAX = 500
"""Klines in one commit. A position within a tick counts parts of this size: a version that changes it must begin after
a whole tick."""


@dataclass(frozen=True, slots=True)
class Position:
    """`epoch` rises with every aggregator that takes the shard, `seq` counts their commits; `feed` is the id of the
    last entry whose outputs are out, and `step` how many parts of the next tick's outputs are out too (0 but within a
    long jump or a large tick); `numbers` is the last `seq` of each output stream."""

    epoch: int = 0
    seq: int = 0
    feed: str = START
    step: int = 0
    numbers: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(STREAMS, 0))

    def to_fields(self) -> Fields:
        """The fields of the hash `commit:{n}`."""
        numbers = {f"seq_{name}": str(number) for name, number in self.numbers.items()}
        return {"epoch": str(self.epoch), "seq": str(self.seq), "feed": self.feed, "step": str(self.step), **numbers}

    @classmethod
    def from_hash(cls, raw: Mapping[bytes, bytes]) -> Position:
        """The position in `commit:{n}`; the start if there is none. ContractError if it is damaged."""
        if not raw:
            return cls()
        numbers = {name: integer_of(raw, f"seq_{name}") for name in STREAMS}
        position = cls(
            integer_of(raw, "epoch"),
            integer_of(raw, "seq"),
            text_of(raw, "feed"),
            integer_of(raw, "step"),
            numbers,
        )
        EntryId.of(position.feed)
        return position


def after(one: str, other: str) -> bool:
    """Whether stream id `one` comes after `other`."""
    return EntryId.of(one) > EntryId.of(other)


def entries_by_key(keys: Keys, outputs: Outputs) -> Mapping[str, Sequence[Fields]]:
    """The entries that these outputs append, by the key of their stream, in the order of STREAMS."""
    return {
        keys.klines: outputs.klines,
        keys.live: outputs.live,
        keys.events: outputs.events,
        keys.requests: outputs.requests,
        keys.findings: outputs.findings,
        keys.dead: outputs.dead,
    }


def split_outputs(outputs: Outputs, klines_max: int = KLINES_MAX) -> Iterator[Outputs]:
    """Encoded outputs in parts, in the order in which they are committed; with few klines there is one part.

    Many klines go out in slices, then the remaining ones with everything but `live` and `bars`, then each of these by
    itself. Only the last part of a tick's last outputs is `last`.
    """
    whole = max(0, len(outputs.klines) - 1) // klines_max * klines_max
    if not whole:
        yield outputs
        return
    for start in range(0, whole, klines_max):
        yield Outputs(outputs.time_ms, last=False, klines=outputs.klines[start : start + klines_max])
    yield replace(outputs, last=False, klines=outputs.klines[whole:], live=[], bars={}, bars_gone=[])
    yield Outputs(outputs.time_ms, last=False, live=outputs.live)
    yield Outputs(outputs.time_ms, last=outputs.last, bars=outputs.bars, bars_gone=outputs.bars_gone)


class Committer:
    """Owns a shard's `commit:{n}` for one epoch. Every error of `commit` is the end of this process."""

    def __init__(self, streams: Streams, keys: Keys, writer: str) -> None:
        self._streams, self._keys, self._writer = streams, keys, writer
        self._believed: dict[bytes, bytes] = {}
        self._live_id = START
        self.position = Position()

    def take_over(self, now_ms: float) -> Position:
        """Take a new epoch, which fences whoever had the shard; the position reached so far.

        The epoch is the wall clock's `now_ms`, or the next number where that is not higher. So it is also higher than
        that of any process that Redis no longer knows of because it came back older, and what is published from now
        on beats what that process wrote into the table (docs/adr/0008-epochs-by-time.md).
        """
        self._believed = self._streams.hash_of(self._keys.commit)
        found = Position.from_hash(self._believed)
        self._move_to(replace(found, epoch=max(found.epoch + 1, int(now_ms)), seq=found.seq + 1), [])
        newest = self._streams.newest(self._keys.live)
        self._live_id = newest[0].id if newest else START
        return self.position

    def commit(self, outputs: Outputs, feed_id: str, more: Sequence[Write] = ()) -> None:
        """Commit encoded outputs of the tick `feed_id`, the position behind them and `more` writes, in one transaction.

        CommitConflict if the shard is another process's now, RedisOlder if Redis came back older than this process,
        CommitDoubt if the reply was lost, RedisUnavailable and RedisRefused as of any write.
        """
        assert outputs.encoded, "outputs are encoded before they are committed"
        numbers = dict(self.position.numbers)
        writes: list[Write] = []
        for name, (key, entries) in zip(STREAMS, entries_by_key(self._keys, outputs).items(), strict=True):
            first = numbers[name] + 1
            numbers[name] += len(entries)
            writes += [
                Append(key, stamp(fields, self._writer, number), ENTRIES_MAX.get(name, 0))
                for number, fields in enumerate(entries, first)
            ]
        if outputs.bars:
            writes.append(HashUpdate(self._keys.bars, {**outputs.bars, BARS_POSITION: self._live_id}))
        if outputs.bars_gone:
            writes.append(HashUpdate(self._keys.bars, remove=outputs.bars_gone))
        was = self.position
        feed, step = (feed_id, 0) if outputs.last else (was.feed, was.step + 1)
        self._move_to(Position(was.epoch, was.seq + 1, feed, step, numbers), [*writes, *more])
        if outputs.bars:
            self._live_id = self._newest_live()

    def _newest_live(self) -> str:
        """The newest `live` id: the next `bars` will reflect everything up to it."""
        newest = self._streams.newest(self._keys.live)
        return newest[0].id if newest else START

    def _move_to(self, position: Position, writes: Sequence[Write]) -> None:
        fields = position.to_fields()
        try:
            self._streams.commit(self._keys.commit, self._believed, fields, writes)
        except CommitConflict as conflict:
            if conflict.found is not None:
                self.compare(conflict.found)
            raise
        self._believed = {name.encode(): value.encode() for name, value in fields.items()}
        self.position = position

    def stand_at(self, feed_id: str) -> None:
        """Go on from this entry of the feed, with the next commit: the one that was reached is not there any more."""
        self.position = replace(self.position, feed=feed_id, step=0)

    def compare(self, found: Mapping[bytes, bytes]) -> None:
        """RedisOlder, and a finding if Redis takes one, if `found` (the hash `commit:{n}`) is behind this process."""
        try:
            held = Position.from_hash(found)
        except ContractError:
            return  # damaged rather than old: the caller knows what went wrong
        if (held.epoch, held.seq) < (self.position.epoch, self.position.seq):
            raise self.older(f"{self._keys.commit} is at {_place(held)}", found)

    def older(self, where: str, found: Mapping[bytes, bytes] | None = None) -> RedisOlder:
        """The error for a Redis that is behind this process, as `where` shows; it is also left as a finding, if Redis
        takes one.

        The finding is written outside of any commit, because this process makes no more commits; its `seq` is 1.
        """
        evidence = f"{where}, while this process had committed {_place(self.position)}"
        entry = finding_entry(FindingKind.REDIS_OLDER, Severity.ERROR, evidence)
        with contextlib.suppress(RedisUnavailable, RedisRefused):
            stamped = stamp(entry, f"{self._writer}/older", 1)
            self._streams.append(self._keys.findings, stamped)
        return RedisOlder(f"Redis came back older than this process: {evidence}", found=found)


def _place(position: Position) -> str:
    """A position for a sentence."""
    if position == Position():
        return "nothing"
    return f"epoch {position.epoch}, commit {position.seq}, feed {position.feed}"
