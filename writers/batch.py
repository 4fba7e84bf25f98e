"""What the writer holds between Redis and the table: pure, `now` is an argument."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from klagg.contract import RawFields
from klagg.kline import Kline


@dataclass(frozen=True, slots=True)
class Taken:
    """A stream entry that holds a good kline: its stream, its id there, its fields as Redis holds them, the kline."""

    stream: str
    id: str
    raw: RawFields
    kline: Kline


@dataclass(frozen=True, slots=True)
class Rejected:
    """A stream entry that cannot be stored, and why."""

    stream: str
    id: str
    raw: RawFields
    reason: str


@dataclass(slots=True)
class Batch:
    """Entries that were read and are not settled yet: at most `size_max`, for at most `wait_ms_max`."""

    size_max: int
    wait_ms_max: int
    taken: list[Taken] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    _since_ms: float = 0.0

    def __len__(self) -> int:
        return len(self.taken) + len(self.rejected)

    @property
    def room(self) -> int:
        """How many more entries it takes; a reader of several streams may bring in a few more."""
        return max(0, self.size_max - len(self))

    def add(self, entry: Taken | Rejected, now_ms: float) -> None:
        """Take in an entry at `now_ms` (any clock that only runs forward)."""
        if not len(self):
            self._since_ms = now_ms
        if isinstance(entry, Taken):
            self.taken.append(entry)
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
        entries: tuple[Taken | Rejected, ...] = (*self.taken, *self.rejected)
        for entry in entries:
            found.setdefault(entry.stream, []).append(entry.id)
        return found

    def clear(self) -> None:
        self.taken.clear()
        self.rejected.clear()


def resolve(entries: Iterable[Taken]) -> list[Taken]:
    """For each kline its highest version, the first of equal ones, sorted by key.

    One statement cannot touch a row twice, and writers that lock rows in one order cannot deadlock.
    """
    best: dict[tuple[str, str, int], Taken] = {}
    for entry in entries:
        key = entry.kline.key
        rival = best.get(key)
        if rival is None or entry.kline.version > rival.kline.version:
            best[key] = entry
    return [best[key] for key in sorted(best)]
