"""Opens a file of official klines, whatever its format."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from klagg.errors import RecordingError
from klagg.recordings import capture, columnar
from klagg.recordings.files import text_chunks, text_head, text_lines
from klagg.recordings.jsonarray import DECODER, ArrayError, array_items
from klagg.recordings.layouts import Content, RecordingLayout, detect, klines_by_name
from klagg.recordings.model import OfficialKline, Refuse, RefusedRow
from klagg.recordings.rows import KLINE_COLUMNS, BadKline, is_closed, kline_row
from klagg.recordings.values import BadValue, cells

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
_ROW_TIME = re.compile(r"(?:^|\[)\s*([0-9]{13,19}),", re.ASCII | re.MULTILINE)
_DIGITS_OF_MICROSECONDS: Final = 16
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

    @property
    def is_of_spot(self) -> bool:
        """Whether it is the exchange's, and of the spot market: since 2025 its dumps alone have times in µs
        (binance-public-data, README), as its REST API has on request. Tables of others may have any unit."""
        columns = self.layout.columns or KLINE_COLUMNS
        exchanges_own = self.layout.content in {Content.CSV_KLINES, Content.REST_KLINES} and columns == KLINE_COLUMNS
        digits = [len(time) for time in _ROW_TIME.findall(text_head(self.path))] if exchanges_own else []
        return 2 * digits.count(_DIGITS_OF_MICROSECONDS) > len(digits)

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
            case Content.REST_KLINES | Content.JSON_KLINES:
                return self._from_json_array(refuse)
            case Content.ANSWER_KLINES:
                return self._from_answer(refuse)
            case Content.ARROW_KLINES | Content.PARQUET_KLINES:
                return self._built(columnar.rows(self.path, self.layout), refuse)
            case _:
                return self._from_table(refuse)

    def _bad(self, number: int, error: BadValue, refuse: Refuse | None) -> None:
        if refuse is None:
            raise RecordingError(str(self.path), number, str(error)) from error
        kline = error.kline if isinstance(error, BadKline) else None
        refuse(RefusedRow(str(self.path), number, str(error), kline))

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
            yield from self._built(array_items(text_chunks(self.path)), refuse)
        except ArrayError as error:
            raise RecordingError(str(self.path), 0, str(error)) from error

    def _from_answer(self, refuse: Refuse | None) -> Iterator[tuple[int, OfficialKline]]:
        answer = _answer(self.path)
        for name, wanted in (("symbol", self.symbol), ("interval", self.interval)):
            if None not in {wanted, answer.get(name)} and answer[name] != wanted:
                raise RecordingError(str(self.path), 0, f"holds klines of the {name} {answer[name]}, not of {wanted}")
        items = answer["klines"]
        if not items:
            return
        layouts = (klines_by_name(list(each), self.layout.content) for each in items if isinstance(each, dict))
        layout = next(filter(None, layouts), None)
        if layout is None:
            raise RecordingError(str(self.path), 1, "is no kline")
        yield from self._built(enumerate(items, 1), refuse, layout)

    def _from_table(self, refuse: Refuse | None) -> Iterator[tuple[int, OfficialKline]]:
        numbers_and_lines = text_lines(self.path)
        if self.layout.header:
            next(numbers_and_lines)
        return self._built(((number, line) for number, line in numbers_and_lines if line), refuse)

    def _built(
        self, rows: Iterable[tuple[int, Any]], refuse: Refuse | None, layout: RecordingLayout | None = None
    ) -> Iterator[tuple[int, OfficialKline]]:
        """The klines of the bars that are over, each with the number of its row; `refuse` gets what can be none."""
        layout = layout or self.layout
        columns = layout.columns or KLINE_COLUMNS
        for number, row in rows:
            try:
                values = _values(row, layout)
                kline = kline_row(values, columns) if is_closed(values, columns) else None
            except BadValue as error:
                self._bad(number, error, refuse)
                continue
            if kline is not None:
                yield number, kline


def _values(row: Any, layout: RecordingLayout) -> Sequence[Any]:
    """The values of a row in the order of the layout's columns; BadValue if it is no row of that layout."""
    if layout.content is Content.CSV_KLINES and isinstance(row, str):
        return cells(row)
    if isinstance(row, list):
        if layout.content not in {Content.JSON_KLINES, Content.ANSWER_KLINES}:
            return row
    elif layout.names and isinstance(row, dict):
        return [row.get(name) for name in layout.names]
    raise BadValue("is no kline")


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
