"""`klagg-aggregator`: the shell around the core. Reads the feed, commits at ticks, checkpoints, trims.

A restart takes the next epoch, loads the checkpoint, reads the feed on from its position, and publishes nothing up to
the committed id; from there on every tick is committed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from aggregator.checkpoint import Checkpoint, CheckpointDamaged, block_keys, fits, restore
from aggregator.commit import START, Committer, after, split_outputs
from aggregator.core import Core
from aggregator.publisher import Outputs
from aggregator.repair_budget import PAGE_WEIGHT
from aggregator.trimming import Trimmer
from klagg.binance.weight_account import ROLE_REPAIR, share_of
from klagg.clock import local_ms
from klagg.drivers.redis_streams import Delete, Entry, HashUpdate, Write
from klagg.errors import CommitConflict, CommitDoubt, ConfigError, RedisRefused, RedisUnavailable
from klagg.process.memory import keep_freed_memory
from klagg.process.service import Context, run
from klagg.process.stats import Flow
from klagg.settings import Aggregator, Settings
from klagg.wire.entries import TRADES
from klagg.wire.entry_id import milliseconds_of
from klagg.wire.fields import Fields
from klagg.wire.findings import FindingKind, Severity, finding_entry
from klagg.wire.keys import Keys

READ_ENTRIES = 256
CHECKPOINT_S = 60.0
LOOK_BACK_S = 5.0
"""How long a process that lost Redis waits for it, to see whether it came back older."""
COUNTED = (
    "trades",
    "duplicates",
    "refused",
    "ticks",
    "finals",
    "requests",
    "bad_entries",
    "gaps_opened",
    "gaps_closed",
    "again",
    "witnesses",
    "witnesses_wrong",
    "edges",
)
"""The core's counts that are in the statistics."""
PENDING_FINDINGS_MAX = 1_000
"""Findings of a restart that may wait for the first commit."""


def config_of(settings: Settings) -> Aggregator:
    """What one shard's core goes by: of the weight for missing trades it has its part, and no more than repair has."""
    weight = min(settings.aggregator.ask_weight_per_minute, share_of(ROLE_REPAIR, settings.rest).own)
    return replace(settings.aggregator, ask_weight_per_minute=max(PAGE_WEIGHT, weight // settings.shards))


class Service:
    """One shard at work. `turn` reads once and handles what came."""

    def __init__(self, context: Context, shard: int) -> None:
        self._context = context
        self._settings = context.settings
        self._keys = Keys(shard)
        self._streams = context.connect()
        self._core = Core(config_of(self._settings))
        self._committer = Committer(self._streams, self._keys, context.writer)
        self._read_id = START
        self._committed_id = START
        self._parts_already_committed = 0
        """How many parts of the next tick behind the committed one are out already."""
        self._trimmer = Trimmer(self._streams, self._keys, self._settings, context.log, context.stats.alarms)
        self._checkpoint_id = START
        """The feed id of the newest whole checkpoint; a restart needs the entries after it."""
        self._pending_findings: list[Fields] = []
        """Findings of this restart, for the next commit."""
        self._reading_from_start = False
        """Whether the feed is read from its beginning although something was committed."""
        self._writing: Iterator[list[Write]] | None = None
        self._checkpoint_s: float = context.arguments.checkpoint_s
        self._checkpoint_due = time.monotonic() + self._checkpoint_s
        self._blocks: list[str] = []
        context.position = lambda: (
            f"{self._keys.feed} was read up to {self._read_id} and committed up to {self._committed_id}; the next "
            f"start reads on from the checkpoint at {self._checkpoint_id}"
        )
        self._counted: dict[str, int] = {}
        """What the checkpoint had counted. The counters shown are those of this process alone: one that was a little
        lower after a restart would look to Prometheus as if it had begun at 0 and grown by all of that."""

    def start(self) -> None:
        """Ensure the consumer groups, take the shard's next epoch, load the checkpoint.

        ContractError if the commit hash is damaged, CommitConflict if another process takes the shard at the same time,
        RedisUnavailable or RedisRefused as of any command.
        """
        self._streams.ping()
        self._trimmer.ensure_groups()
        position = self._committer.take_over(local_ms())
        self._committed_id, self._parts_already_committed = position.feed, position.step
        self._core.epoch = position.epoch
        self._load_checkpoint()
        self._counted = self._counts()
        for kind in FindingKind:  # Prometheus sees growth only in what it saw before
            self._context.stats.add("findings", 0, kind=kind)
        names, fresh = [each.name for each in self._core.ring.intervals], self._core.freshness
        self._context.stats.keep("close_to_final_ms", "interval", dict(zip(names, fresh.to_final, strict=True)))
        self._context.stats.keep("close_to_proof_ms", "interval", dict(zip(names, fresh.to_proof, strict=True)))
        self._show()
        self._reading_from_start = self._read_id == START != self._committed_id
        self._stay_within_the_feed()
        self._checkpoint_due -= min(self._checkpoint_s, self._behind_s())
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
            self._core = Core(config_of(self._settings), self._core.epoch)
            return
        self._read_id = self._checkpoint_id = pointer["feed"].decode()

    def _behind_s(self) -> float:
        """Seconds of the feed between where reading begins and what is committed.

        They count for the next checkpoint: otherwise a process that is ended again and again before its first one
        would leave each successor more to read, until it can no longer catch up in the time that it has.
        """
        if self._read_id != START:
            begins = self._read_id
        else:
            begins = next((entry.id for entry in self._streams.range(self._keys.feed, count=1)), self._committed_id)
        return max(0, milliseconds_of(self._committed_id) - milliseconds_of(begins)) / 1000

    def _stay_within_the_feed(self) -> None:
        """A feed that ends before what was read or committed came back older than the commit hash.

        Entries to come may get ids that this process would pass over, so it reads on, and publishes, from the feed's
        end. The state may stay as it is, for it holds no less than the feed did.
        """
        last = self._streams.last_id(self._keys.feed)
        if not after(self._committed_id, last):
            return
        evidence = f"{self._keys.feed} ends at {last}, before what was committed, {self._committed_id}"
        self._pending_findings.append(
            finding_entry(FindingKind.REDIS_OLDER, Severity.ERROR, evidence, time_ms=self._core.time_ms)
        )
        self._committed_id, self._parts_already_committed = last, 0
        self._committer.stand_at(last)
        if after(self._read_id, last):
            self._read_id = last

    def look_back(self) -> None:
        """After Redis was lost: RedisOlder if it comes back within LOOK_BACK_S, and older than what is committed."""
        end = time.monotonic() + LOOK_BACK_S
        while time.monotonic() < end and self._context.wait(0.1):
            try:
                found = self._streams.hash_of(self._keys.commit)
            except (RedisUnavailable, RedisRefused):
                continue
            self._committer.compare(found)
            return

    def turn(self) -> None:
        """Read what there is, at most READ_ENTRIES, and commit at every tick in it."""
        found = self._streams.read(
            {self._keys.feed: self._read_id}, count=READ_ENTRIES, block_ms=self._settings.redis.block_ms
        )
        for entry in found.get(self._keys.feed, ()):
            self._apply(entry)
        self._show()
        now_s = time.monotonic()
        if self._trimmer.due(now_s):
            last = self._streams.last_id(self._keys.feed)
            if after(self._read_id, last):  # entries to come may get ids that XREAD would pass over
                raise self._committer.older(f"{self._keys.feed} ends at {last}, before {self._read_id}, which was read")
            self._trimmer.round(now_s, self._checkpoint_id, self._core.time_ms)
            if self._trimmer.pressed:
                self._checkpoint_due = min(self._checkpoint_due, now_s)

    def _apply(self, entry: Entry) -> None:
        stats = self._context.stats
        stats.add("entries")
        if entry.fields.get(b"kind") == TRADES.encode():
            stats.add("trade_entries")
        skip = self._parts_already_committed
        for outputs in self._core.apply(entry.id, entry.fields):
            self._read_id = entry.id
            if not after(entry.id, self._committed_id):
                self._keep_losses(outputs)
                continue
            for part in split_outputs(outputs.encode()):
                if skip:
                    skip -= 1
                else:
                    self._commit(part, entry.id)
                    self._parts_already_committed = 0
        self._read_id = entry.id

    def _keep_losses(self, outputs: Outputs) -> None:
        """Keep losses found in the silent part of a restart for the next commit, if they were not reported before.

        After a restart from a checkpoint the process before has reported them. Where the feed is read from its start,
        it is this process that lacks the entries that were trimmed.
        """
        if self._reading_from_start:
            losses = [finding for finding in outputs.findings if finding["kind"] == FindingKind.DATA_LOSS]
            self._pending_findings += losses[: PENDING_FINDINGS_MAX - len(self._pending_findings)]

    def _commit(self, outputs: Outputs, entry_id: str) -> None:
        started = time.perf_counter()
        findings, cuts = self._trimmer.drain()
        outputs.findings += self._pending_findings + findings
        self._pending_findings = []
        more = self._checkpoint_step() if outputs.last else []
        self._committer.commit(outputs, entry_id, [*more, *cuts])
        self._trimmer.note(outputs)
        self._committed_id = self._committer.position.feed
        self._context.stats.add("commits")
        self._context.stats.show("commit_ms", round((time.perf_counter() - started) * 1000, 2))
        self._log(outputs)
        self._context.log.debug(
            "commit %d behind feed entry %s: %d klines, %d live, %d events, %d requests, %d findings",
            self._committer.position.seq,
            entry_id,
            len(outputs.klines),
            len(outputs.live),
            len(outputs.events),
            len(outputs.requests),
            len(outputs.findings),
        )
        self._context.beat()

    def _log(self, outputs: Outputs) -> None:
        for finding in outputs.findings:
            self._context.stats.add("findings", kind=finding["kind"])
            self._context.log.error("%s %s: %s", finding["kind"], finding["symbol"], finding["evidence"])
        for bad in outputs.dead:
            self._context.log.error("feed entry %s is dead: %s", bad["id"], bad["reason"])

    def _show(self) -> None:
        stats, core = self._context.stats, self._core
        for name, count in self._counts().items():
            stats.counters[name] = count - self._counted[name]
        stats.show("symbols", core.started)
        stats.show("open_gaps", core.open_gaps)
        stats.show("oldest_gap_ms", core.oldest_gap_ms)
        stats.show("exchange_ms", core.time_ms)
        stats.show("witness_margin_ms", core.witnesses.margin_ms)

    def _counts(self) -> dict[str, int]:
        """All counts up to now, also those of the processes before this one."""
        sequences = self._core.feed_sequences
        counts = {name: getattr(self._core.counts, name) for name in COUNTED}
        return counts | {"lost_entries": sequences.lost, "repeated_entries": sequences.repeated}

    def _checkpoint_step(self) -> list[Write]:
        """One step of a checkpoint a tick, beginning one when it is due; the writes that belong into the tick's
        commit."""
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
        4. Delete the old blocks within the next tick's commit, and let the feed be trimmed behind the checkpoint after
        it, when the pointer is surely there: a crash before leaves the old blocks, never a gap. Deleted by themselves
        they could be those that the pointer names in a Redis that came back older since.
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
            "feed": feed_id,
            "prefix": prefix,
            "blocks": str(len(keys)),
            "header": checkpoint.header,
            "writing": "",
        }
        yield [HashUpdate(self._keys.checkpoint, pointer)]
        stale, self._blocks = self._blocks, keys
        yield [Delete(stale)] if stale else []
        self._checkpoint_id = feed_id
        self._trimmer.hurry()

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
    try:
        while context.running():
            service.turn()
    except (RedisUnavailable, CommitDoubt, CommitConflict) as lost:
        if not isinstance(lost, CommitConflict) or lost.found is None:
            service.look_back()
        raise
    service.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the process; the exit code."""
    keep_freed_memory()
    return run(
        "aggregator",
        "Turns the trades of the feed into klines.",
        _body,
        argv=argv,
        configure=_configure,
        name=_name,
        flow=Flow("trade_entries", "trades"),
    )


if __name__ == "__main__":
    sys.exit(main())
