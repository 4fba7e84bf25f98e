"""How a batch gets into the table when some of its rows are poison: pure, the caller does the writing."""

from __future__ import annotations

from collections.abc import Sequence

from klagg.errors import KlaggError
from klagg.process.group_consumer import Rejected
from writers.batch import Accepted, resolve


class TooManyRefused(KlaggError):
    """The database refused so many rows of one batch that something else must be wrong.

    Single poison rows are set aside; a wave of them is more likely a changed table, and setting aside everything would
    lose it. So the writer ends; all entries stay pending in Redis.
    """

    def __init__(self, refused: int, last_reason: str) -> None:
        super().__init__(
            f"the database refused {refused} rows of one batch, which is more than single bad entries, and the writer "
            f"ends before it sets more aside; everything is still in Redis; the last reason was: {last_reason}"
        )
        self.refused = refused


class Settlement:
    """Which rows of a batch to try next, until each is stored or known as poison.

    A refused slice is cut in halves, so that p poison rows among n cost at most about 2·p·log2(n) more transactions.
    Where a version of a kline is poison, another entry of the batch with that version takes its place.

    Usage: while `attempt()` gives rows, store all or none of them, and call `stored()` or `refused(reason)`.
    """

    def __init__(self, entries: Sequence[Accepted], *, poison_max: int) -> None:
        self.poison: list[Rejected] = []
        self._poison_max = poison_max
        self._left = list(entries)
        self._slices = self._first_slices()
        self._poisoned: list[Accepted] = []

    def _first_slices(self) -> list[list[Accepted]]:
        rows = resolve(self._left)
        return [rows] if rows else []

    def attempt(self) -> list[Accepted]:
        """The rows to store next, as `resolve` sorts them; empty when the batch is settled."""
        if not self._slices and self._poisoned:
            self._fall_back()
        return self._slices[-1] if self._slices else []

    def _fall_back(self) -> None:
        """What is left of the klines that had poison rows gets its turn; what is stored already changes nothing."""
        keys = {entry.kline.key for entry in self._poisoned}
        poison = {(entry.stream, entry.id) for entry in self._poisoned}
        self._left = [e for e in self._left if e.kline.key in keys and (e.stream, e.id) not in poison]
        self._poisoned = []
        self._slices = self._first_slices()

    def stored(self) -> None:
        """The rows of the last attempt are committed."""
        self._slices.pop()

    def refused(self, reason: str) -> None:
        """The database did not take the last attempt; TooManyRefused when that happened too often."""
        rows = self._slices.pop()
        if len(rows) > 1:
            middle = len(rows) // 2
            self._slices += [rows[middle:], rows[:middle]]
            return
        entry = rows[0]
        self._poisoned.append(entry)
        self.poison.append(Rejected(entry.stream, entry.id, entry.raw, reason))
        if len(self.poison) > self._poison_max:
            raise TooManyRefused(len(self.poison), reason)
