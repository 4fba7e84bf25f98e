"""The recorded trades of one symbol in columns: about 70 bytes a trade, where an object would take 400."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from klagg.recordings import Trade, TradeIds
from klagg.simulator.market import MarketTrade


class RecordedSymbol:
    """Trades of one symbol by id. Add them in any order, call `finish` once, then read.

    A "row" is a recorded trade, an "aggregate place" an aggregate trade: the same for recorded aggregate trades, the
    counting fills for recorded fills.
    """

    def __init__(self, name: str, ids: TradeIds) -> None:
        self.name = name
        self.ids = ids
        self.price_precision = 0
        self.quantity_precision = 0
        self.tick_precision = 0
        """Digits after the point of the coarsest tick, at most 1, that all prices are multiples of."""
        self._texts: dict[str, str] = {}
        self._id: array[int] = array("q")
        self._first: array[int] = array("q")
        self._last: array[int] = array("q")
        self._time: array[int] = array("q")
        self._event: array[int] = array("q")
        self._maker = bytearray()
        self._price: list[str] = []
        self._qty: list[str] = []
        self._execution: list[str] = []
        self._aggregate_rows: array[int] = array("q")
        self._latest: array[int] = array("q")
        self._counting: array[int] = array("q")

    def __len__(self) -> int:
        return len(self._id)

    def add(self, trade: Trade) -> None:
        """Takes one recorded trade."""
        event_ms = trade.time_ms if trade.event_ms is None else trade.event_ms
        execution = ""
        if self.ids == "trade" or not trade.counts:
            execution = trade.execution or ("MARKET" if trade.counts else "NA")
        self._id.append(trade.id)
        self._first.append(trade.first)
        self._last.append(trade.last)
        self._time.append(trade.time_ms)
        self._event.append(event_ms)
        self._maker.append(trade.maker)
        self._price.append(self._texts.setdefault(trade.price, trade.price))
        self._qty.append(self._texts.setdefault(trade.qty, trade.qty))
        self._execution.append(self._texts.setdefault(execution, execution))
        if trade.counts:
            self.price_precision = max(self.price_precision, _digits(trade.price))
            self.quantity_precision = max(self.quantity_precision, _digits(trade.qty))
            if "." in trade.price:
                self.tick_precision = max(self.tick_precision, _digits(trade.price.rstrip("0")))

    def finish(self) -> int | None:
        """Sorts by id and drops repeated rows. Returns an id that was recorded twice with different values, if any."""
        order = sorted(range(len(self._id)), key=self._id.__getitem__)
        kept: list[int] = []
        for row in order:
            if kept and self._id[kept[-1]] == self._id[row]:
                if self._values(kept[-1]) != self._values(row):
                    return self._id[row]
                continue
            kept.append(row)
        if kept != list(range(len(self._id))):
            self._keep(kept)
        self._texts.clear()
        self._counting = array("q", [row for row in range(len(self._id)) if self.row(row).counts])
        self._aggregate_rows = self._counting if self.ids == "trade" else array("q", range(len(self._id)))
        self._latest = array("q", accumulate(self._time, max))
        return None

    @property
    def first_time_ms(self) -> int:
        """Time of the first trade."""
        return self._time[0]

    @property
    def aggregate_count(self) -> int:
        """How many aggregate trades there are."""
        return len(self._aggregate_rows)

    def row(self, row: int) -> MarketTrade:
        """A recorded trade as it was."""
        return MarketTrade(
            self.name,
            self._id[row],
            self._price[row],
            self._qty[row],
            self._qty[row],
            self._first[row],
            self._last[row],
            self._time[row],
            self._event[row],
            bool(self._maker[row]),
            self._execution[row],
        )

    def aggregate(self, place: int) -> MarketTrade:
        """An aggregate trade; one made from a fill is numbered by its place, from 1."""
        trade = self.row(self._aggregate_rows[place])
        return trade._replace(id=place + 1, execution="") if self.ids == "trade" else trade

    def aggregate_place(self, from_id: int) -> int:
        """Place of the first aggregate trade whose id is not below `from_id`."""
        return max(from_id - 1, 0) if self.ids == "trade" else bisect_left(self._id, from_id)

    def aggregate_places(self, start_ms: int, end_ms: int, *, newest: bool) -> Iterable[int]:
        """Places of a superset of the aggregate trades within the times, forward or, for the `newest`, backward."""
        rows = self.rows_between(start_ms, end_ms)
        first = bisect_left(self._aggregate_rows, rows.start)
        last = bisect_left(self._aggregate_rows, rows.stop)
        return range(last - 1, first - 1, -1) if newest else range(first, last)

    def rows_between(self, start_ms: int, end_ms: int) -> range:
        """Rows of a superset of the trades within the times.

        Ids and times may disagree by a little, so the search is in the latest time so far, which only grows.
        """
        slack_ms = 1_000
        return range(bisect_left(self._latest, start_ms), bisect_right(self._latest, end_ms + slack_ms))

    def price_before(self, time_ms: int) -> str | None:
        """Price of the last counting trade before `time_ms`."""
        place = bisect_left(self._counting, bisect_left(self._latest, time_ms)) - 1
        return self._price[self._counting[place]] if place >= 0 else None

    def last_event_ms(self, time_ms: int) -> int:
        """Event time by which every trade up to `time_ms` is out."""
        rows = self.rows_between(time_ms - 1_000, time_ms)
        return max((self._event[row] for row in rows), default=0)

    def aggregate_events(self) -> NDArray[np.int64]:
        """Event times of the aggregate trades, shape (aggregates,)."""
        return np.frombuffer(self._event, np.int64)[np.array(self._aggregate_rows, np.int64)]

    def fill_events(self) -> NDArray[np.int64]:
        """Event times of the fills, shape (fills,); none for recorded aggregate trades."""
        return np.array(self._event if self.ids == "trade" else [], np.int64)

    def _values(self, row: int) -> tuple[object, ...]:
        return self._price[row], self._qty[row], self._first[row], self._last[row], self._time[row], self._maker[row]

    def _keep(self, rows: list[int]) -> None:
        for name in ("_id", "_first", "_last", "_time", "_event"):
            setattr(self, name, array("q", map(getattr(self, name).__getitem__, rows)))
        self._maker = bytearray(map(self._maker.__getitem__, rows))
        for name in ("_price", "_qty", "_execution"):
            setattr(self, name, list(map(getattr(self, name).__getitem__, rows)))


def _digits(decimal: str) -> int:
    """Digits after the point."""
    return len(decimal.partition(".")[2])
