"""Opens a recording of trades, whatever its format."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from klagg.errors import RecordingError
from klagg.recordings import capture
from klagg.recordings.files import text_chunks, text_head, text_lines
from klagg.recordings.jsonarray import ArrayError, array_items
from klagg.recordings.layouts import Content, RecordingLayout, detect, unwrapped
from klagg.recordings.model import Refuse, RefusedRow, Trade, TradeIds
from klagg.recordings.rows import agg_trade, rest_fill
from klagg.recordings.symbols import symbol_from_ccxt, symbol_from_name
from klagg.recordings.values import BadValue, cells, symbol_text

_NO_SYMBOL = "names no symbol, and neither does the file's name: give the symbol"
_IDS: Mapping[Content, TradeIds] = {
    Content.REST_AGG_TRADES: "agg",
    Content.CSV_AGG_TRADES: "agg",
    Content.REST_TRADES: "trade",
    Content.CSV_TRADES: "trade",
}


@dataclass(frozen=True, slots=True)
class TradeRecording:
    """A recording of trades; iterating reads the file anew and streams its trades in the order recorded.

    `ids` is the id space of all its trades. `symbol` is the symbol given to rows that name none (None for captures,
    whose messages name theirs). Iterating raises RecordingError at the first row that is not right; `usable` passes it
    over.
    """

    path: Path
    layout: RecordingLayout
    ids: TradeIds
    symbol: str | None

    def __iter__(self) -> Iterator[Trade]:
        return self._trades(None)

    def usable(self, refuse: Refuse) -> Iterator[Trade]:
        """The rows that can be trades; `refuse` gets each of the others, whose ids are then missing."""
        return self._trades(refuse)

    def _trades(self, refuse: Refuse | None) -> Iterator[Trade]:
        match self.layout.content:
            case Content.CAPTURE:
                return capture.trades(self.path, self.ids, refuse)
            case Content.REST_AGG_TRADES | Content.REST_TRADES:
                return self._from_json_array(refuse)
            case _:
                return self._from_table(refuse)

    def _bad(self, number: int, error: BadValue, refuse: Refuse | None) -> None:
        if refuse is None:
            raise RecordingError(str(self.path), number, str(error)) from error
        refuse(RefusedRow(str(self.path), number, str(error)))

    def _from_json_array(self, refuse: Refuse | None) -> Iterator[Trade]:
        build: Callable[[Mapping[str, Any], str], Trade] = agg_trade if self.ids == "agg" else rest_fill
        try:
            for number, item in array_items(text_chunks(self.path)):
                try:
                    if not isinstance(item, dict):
                        raise BadValue("is no trade")
                    trade = build(unwrapped(item), self._symbol_of(item))
                except BadValue as error:
                    self._bad(number, error, refuse)
                    continue
                yield trade
        except ArrayError as error:
            raise RecordingError(str(self.path), 0, str(error)) from error

    def _symbol_of(self, item: Mapping[str, Any]) -> str:
        symbol = symbol_from_ccxt(item.get("symbol")) or self.symbol
        if symbol is None:
            raise RecordingError(str(self.path), 1, _NO_SYMBOL)
        return symbol_text(symbol)

    def _from_table(self, refuse: Refuse | None) -> Iterator[Trade]:
        if self.symbol is None:
            raise RecordingError(str(self.path), 0, _NO_SYMBOL)
        build: Callable[[Mapping[str, Any], str], Trade] = agg_trade if self.ids == "agg" else rest_fill
        columns = dict(self.layout.columns or {})
        width = max(columns.values()) + 1
        numbers_and_lines = text_lines(self.path)
        if self.layout.header:
            next(numbers_and_lines)
        for number, line in numbers_and_lines:
            if not line:
                continue
            try:
                row = cells(line)
                if len(row) < width:
                    raise BadValue(f"the row has {len(row)} columns where {width} are expected")
                trade = build({name: row[place] for name, place in columns.items()}, self.symbol)
            except BadValue as error:
                self._bad(number, error, refuse)
                continue
            yield trade


def open_trades(path: str | Path, symbol: str | None = None, ids: TradeIds | None = None) -> TradeRecording:
    """Recognises the trades in `path` and returns them as an iterable.

    `symbol` names the symbol of formats that carry none (REST answers, dumps); without it the file's name may. `ids`
    chooses the stream of a capture that holds both aggTrade and trade events (default: trade). Raises RecordingError
    for a file that is unreadable, of no known format, without trades, or of another id space than `ids`.
    """
    path = Path(path)
    head = text_head(path)
    if not head.strip():
        raise RecordingError(str(path), 0, "is empty")
    layout = detect(head)
    if layout is None:
        raise RecordingError(str(path), 0, "is no known format of recorded trades")
    if layout.content is Content.CAPTURE:
        return TradeRecording(path, layout, ids or capture.trade_ids(path), None)
    if layout.content not in _IDS:
        raise RecordingError(str(path), 0, f"is a recording of klines ({layout.content.value}), not of trades")
    if ids is not None and ids != _IDS[layout.content]:
        raise RecordingError(str(path), 0, f"holds {layout.content.value} and no {ids!r} ids")
    return TradeRecording(path, layout, _IDS[layout.content], symbol or symbol_from_name(path))
