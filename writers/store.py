"""Batches into the database, with patience: an outage is waited out, a poison row is set aside."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from klagg.backoff import Backoff
from klagg.drivers.postgres import Database
from klagg.errors import DatabaseRefused, DatabaseUnavailable
from klagg.process.service import Context
from writers.batch import Accepted
from writers.kline_table import KlineVersion, lacking, upsert, value_is_to_blame
from writers.migrate import require_schema
from writers.settlement import Settlement

RETRY_FIRST_S: Final = 0.2
RETRY_CAP_S: Final = 10.0

POISON_MAX: Final = 100
"""More refused rows than this in one batch are not single bad entries (TooManyRefused)."""

AWAY: Final = "waiting for the database"
"""The state that the heartbeat shows during an outage."""

T = TypeVar("T")


def open_database(context: Context) -> Database:
    """The database of a writer. While a statement runs, the heart of the process beats.

    After the deadline of a shutdown a statement ends with DatabaseUnavailable, and its transaction is undone.
    """

    def beat_or_give_up() -> None:
        context.beat()
        if context.stopping and context.stop_deadline.passed:
            raise DatabaseUnavailable("the database did not answer before the deadline of the shutdown")

    return Database(
        context.settings.database.url, application=f"klagg-{context.process}", while_waiting=beat_or_give_up
    )


class Store:
    """The klines table for a service that must not lose a batch.

    While the database is away, calls stay here, so their caller reads nothing more and its memory stays flat. They end
    without success only when the process is asked to stop: then each attempt is the last one.
    """

    def __init__(self, context: Context, database: Database) -> None:
        self._context = context
        self._database = database

    def wait_until_usable(self) -> bool:
        """Whether the database answers and has the schema; MigrationError if it lacks migrations."""
        return self._patiently(self._has_schema) or False

    def _has_schema(self) -> bool:
        require_schema(self._database)
        return True

    def put(self, entries: Sequence[Accepted]) -> Settlement | None:
        """Store a batch; what was poison in it, or None if it could not be stored before the process has to stop.

        Each accepted part is committed at once. DatabaseRefused if the database refuses for another reason than a
        value, TooManyRefused if it refuses too many values.
        """
        settlement = Settlement(entries, poison_max=POISON_MAX)
        while rows := settlement.attempt():
            klines = [entry.kline for entry in rows]
            try:
                written = self._patiently(lambda batch=klines: upsert(self._database, batch))  # type: ignore[misc]
            except DatabaseRefused as refused:
                if not value_is_to_blame(refused):
                    raise
                settlement.refused(str(refused))
                self._context.beat()
                continue
            if written is None:
                return None
            self._context.stats.add("rows", written)
            settlement.stored()
        return settlement

    def lacking(self, versions: Sequence[KlineVersion]) -> list[KlineVersion] | None:
        """Those of these versions that the table has neither as they are nor in a higher one; None if the process has
        to stop before the database answers."""
        return self._patiently(lambda: lacking(self._database, versions)) if versions else []

    def _patiently(self, action: Callable[[], T]) -> T | None:
        """The result of `action`, repeated through an outage; None if the process is asked to stop during one."""
        backoff, since = Backoff(RETRY_FIRST_S, RETRY_CAP_S, random.random), time.monotonic()
        while True:
            try:
                result = action()
            except DatabaseUnavailable as away:
                pause_s = backoff.next_s()
                self._context.log.warning("%s; next attempt in %.1f s", away, pause_s)
                self._context.pulse.state = AWAY
                if not self._context.wait(pause_s):
                    return None
                self._context.stats.add("retries")
                continue
            if backoff.tries:
                self._context.log.info("the database is back after %.1f s", time.monotonic() - since)
            return result
