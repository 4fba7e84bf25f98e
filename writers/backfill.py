"""`klagg backfill` without its command line: a thread reads ahead while the database stores what was read."""

from __future__ import annotations

import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final, Generic, TypeVar

from klagg.backoff import Backoff
from klagg.errors import DatabaseRefused, DatabaseUnavailable, KlaggError, RecordingError
from klagg.wire.findings import FindingKind
from writers.backfill_dumps import read_dump
from writers.backfill_parts import Failure, HistoryRows, Part
from writers.backfill_table import CONTRADICTIONS, SETTLED, Disagreement, HistoryTable, Report, Stored
from writers.kline_table import value_is_to_blame

AHEAD_MAX: Final = 2
"""Batches that are read while one is stored. This bounds the memory: a batch is about 10,000 rows, or 10 MB."""

EXAMPLES_MAX: Final = 10
TRIES_MAX: Final = 8
"""So often a batch is tried while the database is away: half a minute."""

JOIN_S: Final = 5.0
_PUT_S: Final = 0.1

T = TypeVar("T")


@dataclass(slots=True)
class Totals:
    """What a run did. The counters are those of `Stored`; of differences from bars of klagg's own `gaps` are
    EXCHANGE_GAP and `different` all others, `examples` the first ones. `contradictions` counts those among official
    rows by symbol, interval and kind, `contradicted` holds the first ones. `bad` has the last batch of each part with
    bad rows, by its key."""

    rows: int = 0
    written: int = 0
    healed: int = 0
    known: int = 0
    refused: int = 0
    own: int = 0
    incomplete: int = 0
    different: int = 0
    gaps: int = 0
    examples: list[Disagreement] = field(default_factory=list)
    contradictions: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    contradicted: list[Disagreement] = field(default_factory=list)
    bad: dict[tuple[str, str, str], HistoryRows] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)

    @property
    def contradictory(self) -> bool:
        """Whether official rows contradict each other, and nobody says which are right."""
        return any(kind != SETTLED for *_, kind in self.contradictions)

    def add(self, batch: HistoryRows, stored: Stored) -> None:
        """Count a batch in."""
        for name in ("rows", "written", "healed", "known", "refused", "own", "incomplete"):
            setattr(self, name, getattr(self, name) + getattr(stored, name))
        official = [each for each in stored.disagreements if each.kind in CONTRADICTIONS]
        own = [each for each in stored.disagreements if each.kind not in CONTRADICTIONS]
        self.contradictions.update((each.symbol, each.interval, each.kind) for each in official)
        self.contradicted += official[: EXAMPLES_MAX - len(self.contradicted)]
        gaps = sum(each.kind == FindingKind.EXCHANGE_GAP for each in own)
        self.gaps += gaps
        self.different += len(own) - gaps
        self.examples += own[: EXAMPLES_MAX - len(self.examples)]
        if batch.bad_rows:
            self.bad[batch.part.key] = replace(batch, rows=())


class ReaderDied(KlaggError):
    """Reading ended by an error that nobody foresaw; it stands above."""


@dataclass(frozen=True, slots=True)
class _End:
    """Nothing more comes, because of `error` if there is one."""

    error: KlaggError | None = None


class ReadAhead(Generic[T]):
    """An iterator over `source`, which a thread runs at most AHEAD_MAX items ahead. Its errors come out here.

    `close` ends the thread: at its next item, or sooner if the source itself looks at `stopping`.
    """

    def __init__(self, source: Iterable[T], stopping: threading.Event) -> None:
        self._source, self._stopping = source, stopping
        self._items: queue.Queue[T | _End] = queue.Queue(AHEAD_MAX)
        self._thread = threading.Thread(target=self._work, name="backfill-reader", daemon=True)

    def __iter__(self) -> Iterator[T]:
        self._thread.start()
        while not isinstance(item := self._items.get(), _End):
            yield item
        if item.error is not None:
            raise item.error

    def close(self) -> None:
        """End the thread; waits for that up to JOIN_S."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(JOIN_S)

    def _work(self) -> None:
        end = _End(ReaderDied())
        try:
            for item in self._source:
                if not self._put(item):
                    break
            end = _End()
        except KlaggError as error:
            end = _End(error)
        finally:
            self._put(end)

    def _put(self, item: T | _End) -> bool:
        while not self._stopping.is_set():
            try:
                self._items.put(item, timeout=_PUT_S)
            except queue.Full:
                continue
            return True
        return False


def from_dumps(parts: Iterable[Part], closed_ms: int) -> Iterator[HistoryRows | Failure]:
    """All rows of files, one after the other; a bad one is a Failure and does not stop the rest."""
    for part in parts:
        try:
            yield from read_dump(part, closed_ms)
        except RecordingError as bad:
            yield Failure(part, str(bad))


def load(
    table: HistoryTable,
    source: Iterable[HistoryRows | Failure],
    totals: Totals,
    *,
    report: Report,
    done: Callable[[HistoryRows | Failure], None] = lambda _: None,
    stopping: threading.Event | None = None,
) -> None:
    """Store everything that `source` gives, counting in `totals`.

    `report` receives what differs from bars of klagg's own before it is committed; `done` receives each item once it is
    stored or has failed.
    DatabaseUnavailable if the database stays away: what is stored so far is noted, and another run goes on there.
    """
    failed: set[tuple[str, str, str]] = set()
    ahead = ReadAhead(source, stopping or threading.Event())
    try:
        for item in ahead:
            if isinstance(item, HistoryRows) and item.part.key not in failed:
                try:
                    totals.add(item, _patiently(table, item, report))
                except DatabaseRefused as refused:
                    if not value_is_to_blame(refused):
                        raise
                    failed.add(item.part.key)
                    totals.failures.append(Failure(item.part, f"{item.part.path or item.part.name}: {refused}"))
            elif isinstance(item, Failure) and not item.row:
                totals.failures.append(item)
            done(item)
    finally:
        ahead.close()


def _patiently(table: HistoryTable, batch: HistoryRows, report: Report) -> Stored:
    backoff = Backoff(0.2, 10.0, random.random)
    while True:
        try:
            return table.store(batch, report)
        except DatabaseUnavailable:
            if backoff.tries >= TRIES_MAX:
                raise
            time.sleep(backoff.next_s())
