"""klagg-writer-snapshot: bars in progress at the clock's triggers, and, when there is time, history and retention.

Nothing here is urgent. The process runs at a low priority, on a connection of its own and in one loop: a page of
history, then the clock, then what the clock triggered, a little at a time. What a crash leaves is done again: bars in
progress by the next snapshot, history because it is acknowledged after its commit, retention because its last trigger
is read again.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Final

from klagg.backoff import Backoff
from klagg.clock import local_ms
from klagg.errors import ConfigError, DatabaseUnavailable, KlaggError, RedisRefused, RedisUnavailable
from klagg.process import service
from klagg.process.service import Context
from klagg.wire.entries import TRIGGER_DAYS, TRIGGER_RETENTION, TRIGGER_SNAPSHOT
from klagg.wire.entry_id import BEFORE_FIRST
from klagg.wire.keys import CLOCK_KEY, GROUP_WRITERS, Keys
from writers.days import Days
from writers.history_consumer import HistoryConsumer
from writers.migrate import require_schema
from writers.retention import Retention, Step
from writers.snapshots import Snapshots
from writers.store import open_database
from writers.triggers import Triggers

PROCESS: Final = "writer-snapshot"

NICENESS: Final = 10
"""How far this process steps back for others (nice)."""

TRIGGERS_READ: Final = 1000

PAUSE_FIRST_S: Final = 0.2
PAUSE_CAP_S: Final = 10.0
REDIS_FAILURES_MAX: Final = 8
"""Failures of Redis in a row after which the process ends: about 30 s."""

RECOUNT_FIRST_S: Final = 10.0
RECOUNT_CAP_S: Final = 300.0
"""How soon days are counted again while bars are missing: first, and at most."""
DROP_FIRST_S: Final = 1.0
DROP_CAP_S: Final = 300.0
"""How soon a round of retention that the database did not let through begins anew: first, and at most."""
NEVER_S: Final = float("inf")

LOST_STREAM: Final = ("NOGROUP", "no such key")
"""How Redis says that it has lost a stream or its group: they are made again."""

EXIT_LEFT: Final = 3
"""The exit code of a clean end that left history unwritten; it is still in Redis."""

AWAY: Final = "waiting for the database"


class SnapshotWriter:
    """The loop. `run` until asked to stop."""

    def __init__(self, context: Context) -> None:
        settings = context.settings
        self._context = context
        self._streams = context.connect()
        self._shards = [Keys(shard) for shard in range(settings.shards)]
        self._database = open_database(context)
        self._snapshots = Snapshots(context, self._streams, self._database)
        self._history = HistoryConsumer(context, self._streams, self._database)
        self._retention = Retention(self._database, settings)
        self._days = Days(self._database, settings)
        self._recount = Backoff(RECOUNT_FIRST_S, RECOUNT_CAP_S, random.random)
        self._recount_at_s = NEVER_S
        self._days_ms = 0
        """The exchange time (ms) of the last trigger by which days were counted."""
        self._dropping: Iterator[Step] | None = None
        """The round of retention that is under way."""
        self._dropping_ms = 0
        """The exchange time (ms) of the trigger that it carries out."""
        self._drop = Backoff(DROP_FIRST_S, DROP_CAP_S, random.random)
        self._drop_at_s = 0.0
        """Before this no round of retention begins (`time.monotonic`)."""
        self._triggers = Triggers()
        self._clock_id = BEFORE_FIRST
        self._left: int | None = None
        context.position = self._position

    def _position(self) -> str:
        left = "how many entries are left is not known" if self._left is None else f"{self._left} entries are left"
        return f"triggers were read up to {self._clock_id}; of the history {left} in Redis"

    def run(self) -> int:
        """Work until asked to stop, then write what history there is; how many of its entries nobody has settled.

        RedisUnavailable when Redis stays away; MigrationError if the database lacks migrations; DatabaseRefused where
        it refuses more than values.
        """
        backoff, redis_failures = Backoff(PAUSE_FIRST_S, PAUSE_CAP_S, random.random), 0
        while not self._context.stopping:
            try:
                self._begin()
                while self._context.running():
                    self._turn()
                    backoff.reset()
                    redis_failures = 0
            except DatabaseUnavailable as away:
                self._pause(away, AWAY, backoff)
            except (RedisUnavailable, RedisRefused) as lost:
                if isinstance(lost, RedisRefused) and not any(each in str(lost) for each in LOST_STREAM):
                    raise
                redis_failures += 1
                if redis_failures == REDIS_FAILURES_MAX:
                    raise RedisUnavailable(
                        f"Redis failed {redis_failures} times in a row, so the process ends: {lost}"
                    ) from lost
                self._pause(lost, "waiting for Redis", backoff)
        return self._end()

    def _begin(self) -> None:
        """Groups, schema, and the history that was read before and never settled."""
        for keys in self._shards:
            self._streams.ensure_group(keys.klines, GROUP_WRITERS)
        self._history.ensure_groups()
        require_schema(self._database)
        self._history.recover()
        self._receive_triggers(None)

    def _turn(self) -> None:
        more = self._history.turn()
        dropped = self._drop_some()
        self._receive_triggers(None if more or dropped else self._context.settings.redis.block_ms)
        self._carry_out_triggers()

    def _drop_some(self) -> bool:
        """One step of retention, if its trigger is due; whether something was done.

        Dropping a chunk gives up soon where somebody reads the table (retention.sql). The trigger stays due then, and
        the round begins anew after a pause; what was dropped stays dropped.
        """
        due_ms = self._triggers.due(TRIGGER_RETENTION)
        if self._dropping is None:
            if due_ms is None or time.monotonic() < self._drop_at_s:
                return False
            self._context.log.debug("retention is due at exchange time %d", due_ms)
            self._dropping_ms = due_ms
            self._dropping = self._retention.steps(min(due_ms, int(local_ms())))
        try:
            step = next(self._dropping, None)
        except DatabaseUnavailable as away:
            pause_s = self._drop.next_s()
            self._context.log.info("%s; what is too old stays, next attempt in %.0f s", away, pause_s)
            self._context.stats.add("drops_put_off")
            self._drop_at_s = time.monotonic() + pause_s
            self._dropping = None
            return False
        if step is None:
            self._dropping = None
            self._drop.reset()
            if due_ms == self._dropping_ms:
                self._triggers.done(TRIGGER_RETENTION)
            return False
        what, gone = step
        if gone:
            self._context.stats.add(f"dropped_{what}", gone)
        return True

    def _receive_triggers(self, wait_ms: int | None) -> None:
        """Receive what the clock published; wait for it up to `wait_ms` (None: not at all)."""
        found = self._streams.read({CLOCK_KEY: self._clock_id}, count=TRIGGERS_READ, block_ms=wait_ms)
        entries = found.get(CLOCK_KEY, [])
        if entries:
            self._clock_id = entries[-1].id
        if skipped := self._triggers.receive(entry.fields for entry in entries):
            self._context.stats.add("snapshots_skipped", skipped)

    def _carry_out_triggers(self) -> None:
        """Carry out what is due, but for retention, which goes step by step."""
        triggers = self._triggers
        self._count_days(triggers.due(TRIGGER_DAYS))
        if triggers.due(TRIGGER_SNAPSHOT) is None:
            return
        if not self._context.settings.persistence.snapshots:
            triggers.done(TRIGGER_SNAPSHOT)
        elif self._snapshots.finals_wait():
            self._context.log.debug("the snapshot waits: writer-final is behind")
        else:
            self._snapshots.write()
            triggers.done(TRIGGER_SNAPSHOT)

    def _count_days(self, triggered_ms: int | None) -> None:
        """Count days at the clock's trigger (exchange ms), and sooner again while bars are missing: most of them are
        on their way, from a backlog or from repair, and the table would call them missing until the next trigger."""
        now_s = time.monotonic()
        if triggered_ms is not None:
            self._days_ms = triggered_ms
            self._recount.reset()
        elif now_s < self._recount_at_s:
            return
        counted = self._days.count(self._days_ms)
        self._context.stats.add("days_counted", counted.changed)
        self._context.stats.show("missing_bars", counted.missing)
        self._triggers.done(TRIGGER_DAYS)
        self._recount_at_s = now_s + self._recount.next_s() if counted.missing else NEVER_S

    def _pause(self, trouble: KlaggError, state: str, backoff: Backoff) -> None:
        pause_s = backoff.next_s()
        self._context.log.warning("%s; next attempt in %.1f s", trouble, pause_s)
        self._context.stats.add("retries")
        self._context.pulse.state = state
        self._dropping = None
        self._context.wait(pause_s)

    def _end(self) -> int:
        """Write the history that is there, before the deadline; what is left of it."""
        try:
            self._history.ensure_groups()
            while not self._context.stop_deadline.passed and self._history.turn():
                pass
        except DatabaseUnavailable as away:
            self._context.log.warning("%s", away)
        left = self._left = self._history.left()
        if left:
            self._context.log.warning("%d entries of history are left unwritten; they are still in Redis", left)
        self._database.close()
        return left


def main(argv: Sequence[str] | None = None) -> int:
    """Run the process; 0 when all was written, EXIT_LEFT when history was left in Redis, else the error's code."""
    left = 0

    def body(context: Context) -> None:
        nonlocal left
        if not context.settings.database.enabled:
            raise ConfigError("database.enabled is false, so there is nothing to write to: do not start this process")
        os.nice(NICENESS)
        left = SnapshotWriter(context).run()

    description = "Write bars in progress and history to the database, and drop what is too old."
    code = service.run(PROCESS, description, body, argv=argv)
    return code or (EXIT_LEFT if left else 0)


if __name__ == "__main__":
    sys.exit(main())
