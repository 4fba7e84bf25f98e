"""Opens a file of official klines, whatever its format."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from klagg.errors import RecordingError
from klagg.recordings import capture, columnar
from klagg.recordings.files import text_chunks, text_head, text_lines
from klagg.recordings.jsonarray import DECODER, ArrayError, array_items
from klagg.recordings.layouts import Content, RecordingLayout, detect, klines_by_name
from klagg.recordings.model import OfficialKline
from klagg.recordings.rows import KLINE_COLUMNS, is_closed, kline_row
from klagg.recordings.values import BadValue

_KLINE_CONTENTS = frozenset(
    {
        Content.REST_KLINES,
        Content.CSV_KLINES,
        Content.CAPTURE,
        Content.JSON_KLINES,
        Content.ANSWER_KLINES,
        Content.ARROW_KLINES,
        Content.PARQUET_KLINES,
    }
)
_ANSWER_CHARACTERS_MAX: Final = 16 * 1024 * 1024
"""An answer of /api/klines has 5,000 bars at most; more come as a download."""
_NO_ITEMS = re.compile(r"\s*\[\s*\]\s*")


@dataclass(frozen=True, slots=True)
class KlineRecording:
    """Official klines; iterating reads the file anew and streams its rows. Raises RecordingError on the way.

    Rows of bars that were still open, as klagg's own files and captures hold them, are passed over.
    """

    path: Path
    layout: RecordingLayout
    symbol: str | None
    interval: str | None

    def __iter__(self) -> Iterator[OfficialKline]:
        return (kline for _, kline in self.numbered())

    def numbered(self) -> Iterator[tuple[int, OfficialKline]]:
        """Each row with the number of its line or item, from 1, for whoever finds fault with it."""
        match self.layout.content:
            case Content.CAPTURE:
                return enumerate(self._from_capture(), 1)
            case Content.REST_KLINES | Content.JSON_KLINES:
                return self._from_json_array()
            case Content.ANSWER_KLINES:
                return self._from_answer()
            case Content.ARROW_KLINES | Content.PARQUET_KLINES:
                return self._built(columnar.rows(self.path, self.layout))
            case _:
                return self._from_table()

    def _from_capture(self) -> Iterator[OfficialKline]:
        series: tuple[str, str] | None = None
        for symbol, interval, kline in capture.closed_klines(self.path):
            if self.symbol not in {None, symbol} or self.interval not in {None, interval}:
                continue
            if series not in {None, (symbol, interval)}:
                raise RecordingError(str(self.path), 0, "holds klines of several symbols or intervals: give both")
            series = (symbol, interval)
            yield kline
        if series is None:
            raise RecordingError(str(self.path), 0, "holds no closed kline events of what was asked for")

    def _from_json_array(self) -> Iterator[tuple[int, OfficialKline]]:
        try:
            yield from self._built(self._cells(array_items(text_chunks(self.path)), self.layout))
        except ArrayError as error:
            raise RecordingError(str(self.path), 0, str(error)) from error

    def _from_answer(self) -> Iterator[tuple[int, OfficialKline]]:
        answer = _answer(self.path)
        for name, wanted in (("symbol", self.symbol), ("interval", self.interval)):
            if None not in {wanted, answer.get(name)} and answer[name] != wanted:
                raise RecordingError(str(self.path), 0, f"holds klines of the {name} {answer[name]}, not of {wanted}")
        items = answer["klines"]
        if not items:
            return
        layout = klines_by_name(list(items[0]), self.layout.content) if isinstance(items[0], dict) else None
        if layout is None:
            raise RecordingError(str(self.path), 1, "is no kline")
        yield from self._built(self._cells(enumerate(items, 1), layout), layout)

    def _cells(self, items: Iterable[tuple[int, Any]], layout: RecordingLayout) -> Iterator[tuple[int, list[Any]]]:
        """The values of each item in the order of the layout's columns."""
        for number, item in items:
            if layout.names and isinstance(item, dict):
                yield number, [item.get(name) for name in layout.names]
            elif not layout.names and isinstance(item, list):
                yield number, item
            else:
                raise RecordingError(str(self.path), number, "is no kline")

    def _from_table(self) -> Iterator[tuple[int, OfficialKline]]:
        numbers_and_lines = text_lines(self.path)
        if self.layout.header:
            next(numbers_and_lines)
        lines = ((number, next(csv.reader((line,)), [])) for number, line in numbers_and_lines)
        return self._built((number, cells) for number, cells in lines if cells)

    def _built(
        self, rows: Iterable[tuple[int, list[Any]]], layout: RecordingLayout | None = None
    ) -> Iterator[tuple[int, OfficialKline]]:
        """The klines of the bars that are over, each with the number of its row."""
        columns = (layout or self.layout).columns or KLINE_COLUMNS
        for number, row in rows:
            try:
                if is_closed(row, columns):
                    yield number, kline_row(row, columns)
            except BadValue as error:
                raise RecordingError(str(self.path), number, str(error)) from error


def _answer(path: Path) -> dict[str, Any]:
    """An answer of /api/klines: an object with the list `klines`."""
    parts, size = [], 0
    for chunk in text_chunks(path):
        size += len(chunk)
        if size > _ANSWER_CHARACTERS_MAX:
            raise RecordingError(
                str(path), 0, f"is longer than {_ANSWER_CHARACTERS_MAX:,} characters: use /api/download"
            )
        parts.append(chunk)
    try:
        answer = DECODER.decode("".join(parts).strip())
    except (ValueError, RecursionError) as error:
        raise RecordingError(str(path), 0, "is not JSON or cut off") from error
    if not isinstance(answer, dict) or not isinstance(answer.get("klines"), list):
        raise RecordingError(str(path), 0, "is no answer of /api/klines")
    return answer


def open_klines(path: str | Path, symbol: str | None = None, interval: str | None = None) -> KlineRecording:
    """Recognises the klines in `path`: dump CSV, REST JSON, spot tables, closed kline events of a capture, and what
    klagg's gateway writes (CSV, JSON, Arrow, Parquet, an answer of /api/klines).

    `symbol` and `interval` choose the series of a capture that holds several; an answer of /api/klines must be theirs;
    other formats hold one series, do not name it, and ignore them. Raises RecordingError for a file that is unreadable
    or holds no klines, and for Arrow and Parquet without their library.
    """
    path = Path(path)
    layout = columnar.detect(path)
    if layout is None:
        head = text_head(path)
        if not head.strip():
            raise RecordingError(str(path), 0, "is empty")
        if _NO_ITEMS.fullmatch(head):
            raise RecordingError(str(path), 0, "is a list without klines")
        layout = detect(head)
    if layout is None:
        raise RecordingError(str(path), 0, "is no known format of klines")
    if layout.content not in _KLINE_CONTENTS:
        raise RecordingError(str(path), 0, f"is a recording of trades ({layout.content.value}), not of klines")
    return KlineRecording(path, layout, symbol, interval)
