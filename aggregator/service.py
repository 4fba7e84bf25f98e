"""`klagg-aggregator`: the shell around the core. Reads the feed, commits at ticks, checkpoints, trims.

Restart: take the next epoch, load the checkpoint, read the feed on from its position, and publish nothing until the
committed id; from there on every tick speaks.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence

from aggregator.checkpoint import Checkpoint, CheckpointDamaged, block_keys, fits, restore
from aggregator.commit import START, Committer, after
from aggregator.core import Core
from aggregator.outputs import Outputs
from klagg import contract
from klagg.contract import Keys
from klagg.errors import ConfigError
from klagg.redisio import Entry, HashUpdate, Write
from klagg.service import Context, run
from klagg.stats import Alarm

READ_ENTRIES = 256
CHECKPOINT_S = 60.0
KLINES_KEPT = 100_000
"""Entries of `klines` that stay when no consumer group is configured."""
FEED_KEPT_MS = 600_000
"""Feed kept behind the checkpoint, for people who look into it."""


class Service:
    """One shard at work. `turn` reads once and handles what came."""

    def __init__(self, context: Context, shard: int) -> None:
        self._context = context
        self._settings = context.settings
        self._keys = Keys(shard)
        self._streams = context.connect()
        self._core = Core(self._settings.aggregator)
        self._committer = Committer(self._streams, self._keys, context.writer)
        self._read_id = START
        self._committed_id = START
        self._out_of_next = 0
        """Outputs of the next tick behind the committed one that are out already."""
        self._groups = [contract.GROUP_WRITERS] if self._settings.database.enabled else []
        self._writing: Iterator[list[Write]] | None = None
        self._checkpoint_s: float = context.arguments.checkpoint_s
        self._checkpoint_due = time.monotonic() + self._checkpoint_s
        self._blocks: list[str] = []

    def start(self) -> None:
        """Groups, the epoch, the checkpoint."""
        self._streams.ping()
        for group in self._groups:
            self._streams.ensure_group(self._keys.klines, group)
        self._streams.ensure_group(self._keys.requests, contract.GROUP_REPAIR)
        position = self._committer.take_over()
        self._committed_id, self._out_of_next = position.feed, position.step
        self._core.epoch = position.epoch
        self._load_checkpoint()
        self._context.log.info(
            "epoch %d: the feed is committed up to %s, read on from %s", position.epoch, position.feed, self._read_id
        )

    def _load_checkpoint(self) -> None:
        pointer = {name.decode(): value for name, value in self._streams.hash_of(self._keys.checkpoint).items()}
        left = pointer.get("writing", b"")
        if left:
            self._streams.delete(*block_keys(left.decode(), int(pointer["writing_blocks"])))
        if "header" not in pointer:
            return
        self._blocks = list(block_keys(pointer["prefix"].decode(), int(pointer["blocks"])))
        header = pointer["header"].decode()
        if not fits(self._core, header):
            self._context.log.warning(
                "the checkpoint has other intervals or another window: it is left, the feed is read anew"
            )
            return
        blocks = self._streams.get_bytes(self._blocks)
        try:
            if any(block is None for block in blocks) or after(pointer["feed"].decode(), self._committed_id):
                raise CheckpointDamaged
            restore(self._core, header, [block for block in blocks if block is not None])
        except CheckpointDamaged:
            self._context.log.warning("the checkpoint is damaged: it is left, the feed is read anew")
            self._core = Core(self._settings.aggregator, self._core.epoch)
            return
        self._read_id = pointer["feed"].decode()

    def turn(self) -> None:
        """Read what there is, at most READ_ENTRIES, and commit at every tick in it."""
        found = self._streams.read(
            {self._keys.feed: self._read_id}, count=READ_ENTRIES, block_ms=self._settings.redis.block_ms
        )
        for entry in found.get(self._keys.feed, ()):
            self._take(entry)
        self._show()

    def _take(self, entry: Entry) -> None:
        stats = self._context.stats
        stats.add("entries")
        if entry.fields.get(b"kind") == contract.TRADES.encode():
            stats.add("trade_entries")
        skip = self._out_of_next
        for outputs in self._core.apply(entry.id, entry.fields):
            self._read_id = entry.id
            if not after(entry.id, self._committed_id):
                continue
            if skip:
                skip -= 1
                continue
            self._commit(outputs.encode(), entry.id)
            self._out_of_next = 0
        self._read_id = entry.id

    def _commit(self, outputs: Outputs, entry_id: str) -> None:
        started = time.perf_counter()
        self._committer.commit(outputs, entry_id, self._checkpoint_step() if outputs.last else ())
        self._committed_id = self._committer.position.feed
        self._context.stats.add("commits")
        self._context.stats.show("commit_ms", round((time.perf_counter() - started) * 1000, 2))
        self._say(outputs)
        self._context.beat()

    def _say(self, outputs: Outputs) -> None:
        for finding in outputs.findings:
            self._context.log.error("%s %s: %s", finding["kind"], finding["symbol"], finding["evidence"])
        for bad in outputs.dead:
            self._context.log.error("feed entry %s is dead: %s", bad["id"], bad["reason"])

    def _show(self) -> None:
        stats, core = self._context.stats, self._core
        for name in ("trades", "duplicates", "refused", "ticks", "finals", "requests", "bad_entries"):
            stats.counters[name] = getattr(core.counts, name)
        stats.show("symbols", core.started)
        stats.show("open_holes", core.open_holes)
        stats.show("exchange_ms", core.time_ms)

    def _checkpoint_step(self) -> list[Write]:
        """A little of a checkpoint: begin one when due, a step a tick; what of it belongs into the tick's commit."""
        if self._writing is None:
            if time.monotonic() < self._checkpoint_due:
                return []
            self._checkpoint_due = time.monotonic() + self._checkpoint_s
            self._writing = self._write_checkpoint()
        writes = next(self._writing, None)
        if writes is None:
            self._writing = None
        return writes or []

    def _write_checkpoint(self) -> Iterator[list[Write]]:
        """Steps of one checkpoint, one a tick; each yields what goes into the tick's commit.

        1. Copy the state and commit the name of its blocks: a crash from here on leaves blocks that the next start
        deletes by that name. 2. Write the blocks: a crash leaves the old pointer. 3. Flip the pointer within a commit.
        4. Delete the old blocks and trim the feed behind the checkpoint, at the next tick, when the pointer is surely
        there: a crash before leaves the old blocks, never a gap.
        """
        position = self._committer.position
        # The core has already taken this tick in; its outputs are committed together with nothing of this copy, so the
        # copy stands for the entry that is being committed now.
        checkpoint, feed_id = Checkpoint(self._core), self._read_id
        prefix = f"{self._keys.checkpoint}:{position.epoch}.{position.seq}"
        keys = list(block_keys(prefix, checkpoint.blocks))
        yield [HashUpdate(self._keys.checkpoint, {"writing": prefix, "writing_blocks": str(len(keys))})]
        for number, key in enumerate(keys):
            self._streams.set_bytes(key, checkpoint.block(number))
            yield []
        pointer = {
            "feed": feed_id, "prefix": prefix, "blocks": str(len(keys)), "header": checkpoint.header, "writing": ""
        }  # fmt: skip
        yield [HashUpdate(self._keys.checkpoint, pointer)]
        stale, self._blocks = self._blocks, keys
        self._streams.delete(*stale)
        self._trim(feed_id)

    def _trim(self, feed_id: str) -> None:
        """Drop what nobody needs any more: the feed behind the checkpoint, klines that every group has done with."""
        milliseconds = int(feed_id.partition("-")[0]) - FEED_KEPT_MS
        self._streams.trim_before(self._keys.feed, f"{max(0, milliseconds)}-0")
        if self._groups:
            self._streams.trim_before(self._keys.klines, min(
                (self._streams.group_floor(self._keys.klines, group) for group in self._groups),
                key=lambda floor: tuple(map(int, floor.split("-"))),
            ))  # fmt: skip
        else:
            self._streams.trim_length(self._keys.klines, KLINES_KEPT)

    def close(self) -> None:
        """Let go of Redis. What was gathered since the last tick is in the feed and comes again."""
        self._streams.close()


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shard", type=int, default=0, help="the shard to aggregate (0)")
    parser.add_argument("--checkpoint-s", type=float, default=CHECKPOINT_S, help=argparse.SUPPRESS)


def _name(arguments: argparse.Namespace) -> str:
    return f"aggregator-{arguments.shard}"


def _body(context: Context) -> None:
    shard = context.arguments.shard
    if not 0 <= shard < context.settings.shards:
        raise ConfigError(f"shard {shard} does not exist: the configuration has {context.settings.shards}")
    service = Service(context, shard)
    service.start()
    while context.running():
        service.turn()
    service.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the process; the exit code."""
    return run(
        "aggregator", "Turns the trades of the feed into klines.", _body,
        argv=argv, configure=_configure, name=_name, alarm=Alarm("trade_entries", "trades"),
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
