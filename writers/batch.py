"""What the writer holds between Redis and the table: pure, `now` is an argument."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from klagg.kline import Kline
from klagg.process.group_consumer import Rejected
from klagg.wire.fields import RawFields


@dataclass(frozen=True, slots=True)
class Accepted:
    """A stream entry that holds a good kline: its stream, its id there, its fields as Redis holds them, the kline."""

    stream: str
    id: str
    raw: RawFields
    kline: Kline


@dataclass(slots=True)
class KlineBatch:
    """Entries that were read and are not settled yet: at most `size_max`, for at most `wait_ms_max`."""

    size_max: int
    wait_ms_max: int
    accepted: list[Accepted] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    _since_ms: float = 0.0

    def __len__(self) -> int:
        return len(self.accepted) + len(self.rejected)

    @property
    def room(self) -> int:
        """How many more entries it takes; a reader of several streams may bring in a few more."""
        return max(0, self.size_max - len(self))

    def add(self, entry: Accepted | Rejected, now_ms: float) -> None:
        """Add an entry at `now_ms` (any clock that only runs forward)."""
        if not len(self):
            self._since_ms = now_ms
        if isinstance(entry, Accepted):
            self.accepted.append(entry)
        else:
            self.rejected.append(entry)

    def due(self, now_ms: float, *, short: bool) -> bool:
        """Whether to flush now. After a short read there is nothing left to wait for."""
        if not len(self):
            return False
        return short or not self.room or now_ms - self._since_ms >= self.wait_ms_max

    def ids(self) -> dict[str, list[str]]:
        """The ids of all entries by stream: what is acknowledged once the batch is settled."""
        found: dict[str, list[str]] = {}
        entries: tuple[Accepted | Rejected, ...] = (*self.accepted, *self.rejected)
        for entry in entries:
            found.setdefault(entry.stream, []).append(entry.id)
        return found


def rank_of(kline: Kline) -> tuple[int, ...]:
    """Where a version stands among those of its bar: the guard of `store` in klines.sql, written in Python.

    Finals are above bars in progress and order by their version. A bar in progress has a revision of 0 all its life and
    only grows, so within an epoch the one that holds the later trade is newer, or the one that holds more of them.
    """
    if kline.revision > 0:
        return 1, *kline.version
    return 0, *kline.version, kline.last_trade_id, kline.trades


def resolve(entries: Iterable[Accepted]) -> list[Accepted]:
    """Each version of each kline once, the first of equal ones, sorted by key and then from the lowest version up.

    One statement cannot touch a row twice, and writers that lock rows in one order cannot deadlock. Versions that a
    higher one of the same batch beats stay: what the table's history holds must not depend on how entries were batched.
    """
    first: dict[tuple[tuple[str, str, int], tuple[int, ...]], Accepted] = {}
    for entry in entries:
        first.setdefault((entry.kline.key, rank_of(entry.kline)), entry)
    return [first[each] for each in sorted(first)]
