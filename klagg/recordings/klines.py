"""Opens a file of official klines, whatever its format."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from klagg.errors import RecordingError
from klagg.recordings import capture
from klagg.recordings.files import text_chunks, text_head, text_lines
from klagg.recordings.jsonarray import ArrayError, array_items
from klagg.recordings.layouts import Content, RecordingLayout, detect
from klagg.recordings.model import OfficialKline, Refuse, RefusedRow
from klagg.recordings.rows import KLINE_COLUMNS, BadKline, kline_row
from klagg.recordings.values import BadValue

_KLINE_CONTENTS = frozenset({Content.REST_KLINES, Content.CSV_KLINES, Content.CAPTURE})


@dataclass(frozen=True, slots=True)
class KlineRecording:
    """Official klines; iterating reads the file anew and streams its rows. Raises RecordingError on the way."""

    path: Path
    layout: RecordingLayout
    symbol: str | None
    interval: str | None

    def __iter__(self) -> Iterator[OfficialKline]:
        return (kline for _, kline in self.numbered())

    def usable(self, refuse: Refuse) -> Iterator[OfficialKline]:
        """The rows that can be klines; `refuse` gets each of the others."""
        return (kline for _, kline in self.numbered(refuse))

    def numbered(self, refuse: Refuse | None = None) -> Iterator[tuple[int, OfficialKline]]:
        """Each row with the number of its line or item, from 1, for whoever finds fault with it.

        A row that is not right goes to `refuse`, and the others come all the same; without it RecordingError.
        """
        match self.layout.content:
            case Content.CAPTURE:
                return enumerate(self._from_capture(refuse), 1)
            case Content.REST_KLINES:
                return self._from_json_array(refuse)
            case _:
                return self._from_table(refuse)

    def _bad(self, number: int, error: BadValue, refuse: Refuse | None) -> None:
        if refuse is None:
            raise RecordingError(str(self.path), number, str(error)) from error
        open_ms = error.open_ms if isinstance(error, BadKline) else None
        refuse(RefusedRow(str(self.path), number, str(error), open_ms))

    def _from_capture(self, refuse: Refuse | None) -> Iterator[OfficialKline]:
        series: tuple[str, str] | None = None
        for symbol, interval, kline in capture.closed_klines(self.path, refuse):
            if self.symbol not in {None, symbol} or self.interval not in {None, interval}:
                continue
            if series not in {None, (symbol, interval)}:
                raise RecordingError(str(self.path), 0, "holds klines of several symbols or intervals: give both")
            series = (symbol, interval)
            yield kline
        if series is None:
            raise RecordingError(str(self.path), 0, "holds no closed kline events of what was asked for")

    def _from_json_array(self, refuse: Refuse | None) -> Iterator[tuple[int, OfficialKline]]:
        try:
            for number, item in array_items(text_chunks(self.path)):
                try:
                    if not isinstance(item, list):
                        raise BadValue("is no kline")
                    kline = kline_row(item, KLINE_COLUMNS)
                except BadValue as error:
                    self._bad(number, error, refuse)
                    continue
                yield number, kline
        except ArrayError as error:
            raise RecordingError(str(self.path), 0, str(error)) from error

    def _from_table(self, refuse: Refuse | None) -> Iterator[tuple[int, OfficialKline]]:
        columns = self.layout.columns or KLINE_COLUMNS
        numbers_and_lines = text_lines(self.path)
        if self.layout.header:
            next(numbers_and_lines)
        for number, line in numbers_and_lines:
            cells = next(csv.reader((line,)), [])
            if not cells:
                continue
            try:
                kline = kline_row(cells, columns)
            except BadValue as error:
                self._bad(number, error, refuse)
                continue
            yield number, kline


def open_klines(path: str | Path, symbol: str | None = None, interval: str | None = None) -> KlineRecording:
    """Recognises the klines in `path` (dump CSV, REST JSON, spot tables, closed kline events of a capture).

    `symbol` and `interval` choose the series of a capture that holds several; other formats hold one and ignore them.
    Raises RecordingError for a file that is unreadable or holds no klines.
    """
    path = Path(path)
    head = text_head(path)
    if not head.strip():
        raise RecordingError(str(path), 0, "is empty")
    layout = detect(head)
    if layout is None:
        raise RecordingError(str(path), 0, "is no known format of klines")
    if layout.content not in _KLINE_CONTENTS:
        raise RecordingError(str(path), 0, f"is a recording of trades ({layout.content.value}), not of klines")
    return KlineRecording(path, layout, symbol, interval)
