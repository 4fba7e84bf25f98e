"""Klines as files: CSV, JSON, Arrow and Parquet, page by page. Arrow and Parquet need pyarrow, which is optional."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final, Protocol

from gateway.openapi import KLINE_FIELDS, NULLABLE_IDS
from klagg.binance.serving.payloads import compact
from klagg.kline import DECIMAL_FIELDS, Kline

MEDIA: Final = {
    "csv": "text/csv",
    "json": "application/json",
    "arrow": "application/vnd.apache.arrow.stream",
    "parquet": "application/vnd.apache.parquet",
}


def formats() -> tuple[str, ...]:
    """The keys of MEDIA that this server can write."""
    return tuple(MEDIA) if importlib.util.find_spec("pyarrow") else ("csv", "json")


class Encoder(Protocol):
    """A file being written; every call returns the bytes that are ready."""

    def page(self, klines: Sequence[Kline]) -> bytes:
        """The next bars."""

    def end(self) -> bytes:
        """The end of the file."""


def fields_of(kline: Kline) -> dict[str, Any]:
    """A kline for an answer: KLINE_FIELDS in their order, None where a value is not known. Times are exchange ms,
    prices and volumes decimal texts."""
    found: dict[str, Any] = {name: getattr(kline, name) for name in KLINE_FIELDS if name != "closed"}
    found["complete"], found["official"] = kline.complete == 1, kline.official == 1
    for name in NULLABLE_IDS:
        found[name] = None if found[name] == -1 else found[name]
    if not kline.source:  # from live state
        found |= {"source": None, "edge": None, "epoch": None}
    return {name: kline.revision > 0 if name == "closed" else found[name] for name in KLINE_FIELDS}


class CsvFile:
    """A header and one line for each bar; an unknown value is an empty field."""

    def __init__(self) -> None:
        self._begun = False

    def page(self, klines: Sequence[Kline]) -> bytes:
        """The lines of these bars; before the first page the header."""
        lines = [] if self._begun else [",".join(KLINE_FIELDS)]
        self._begun = True
        lines += (",".join(map(_csv, fields_of(each).values())) for each in klines)
        return "".join(f"{line}\n" for line in lines).encode()

    def end(self) -> bytes:
        """Nothing, or the header of a file without bars."""
        return b"" if self._begun else self.page([])


class JsonFile:
    """One array, one line for each bar."""

    def __init__(self) -> None:
        self._before = "["

    def page(self, klines: Sequence[Kline]) -> bytes:
        """The items of these bars."""
        parts = []
        for each in klines:
            parts.append(f"{self._before}\n{compact(fields_of(each))}")
            self._before = ","
        return "".join(parts).encode()

    def end(self) -> bytes:
        """The end of the array."""
        return b"\n]\n" if self._before == "," else b"[]\n"


class ByteBuffer:
    """A file to write to, of which only the bytes that were not drained yet are kept."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def write(self, data: Any) -> int:
        """Append bytes or a buffer; returns how many."""
        part = bytes(data)
        self._parts.append(part)
        self._size += len(part)
        return len(part)

    def tell(self) -> int:
        """How many bytes have been written since the beginning."""
        return self._size

    def flush(self) -> None:
        """Does nothing: every byte can be drained at once."""

    def close(self) -> None:
        """Does nothing: what was written can still be drained."""

    def drain(self) -> bytes:
        """Remove and return the bytes written since the last call."""
        parts, self._parts = self._parts, []
        return b"".join(parts)


class ArrowFile:
    """An Arrow stream: decimals as decimal128(38, 18), times as timestamps in ms, UTC."""

    def __init__(self) -> None:
        self._arrow: Any = importlib.import_module("pyarrow")
        self._schema = _schema(self._arrow)
        self._buffer = ByteBuffer()
        self._writer = self._open(self._arrow.PythonFile(self._buffer, mode="w"))

    def _open(self, sink: Any) -> Any:
        return self._arrow.ipc.new_stream(sink, self._schema)

    def page(self, klines: Sequence[Kline]) -> bytes:
        """The record batch of these bars."""
        if klines:
            self._writer.write_batch(_batch(self._arrow, self._schema, klines))
        return self._buffer.drain()

    def end(self) -> bytes:
        """The end of the stream or file."""
        self._writer.close()
        return self._buffer.drain()


class ParquetFile(ArrowFile):
    """A Parquet file with the same columns, a row group for each page."""

    def _open(self, sink: Any) -> Any:
        return importlib.import_module("pyarrow.parquet").ParquetWriter(sink, self._schema)


def encoder(name: str) -> Encoder:
    """A file of that format, one of `formats`."""
    makers: dict[str, type[CsvFile] | type[JsonFile] | type[ArrowFile]] = {
        "csv": CsvFile,
        "json": JsonFile,
        "arrow": ArrowFile,
        "parquet": ParquetFile,
    }
    return makers[name]()


def _csv(value: Any) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _schema(arrow: Any) -> Any:
    kinds = {
        "open_time": arrow.timestamp("ms", "UTC"),
        "close_time": arrow.timestamp("ms", "UTC"),
        "closed": arrow.bool_(),
        "complete": arrow.bool_(),
        "official": arrow.bool_(),
        "source": arrow.string(),
        "edge": arrow.string(),
        **dict.fromkeys(DECIMAL_FIELDS, arrow.decimal128(38, 18)),
    }
    return arrow.schema([(name, kinds.get(name, arrow.int64())) for name in KLINE_FIELDS])


def _batch(arrow: Any, schema: Any, klines: Sequence[Kline]) -> Any:
    rows = [fields_of(each) for each in klines]
    columns = [
        [Decimal(row[name]) for row in rows] if name in DECIMAL_FIELDS else [row[name] for row in rows]
        for name in KLINE_FIELDS
    ]
    arrays = [arrow.array(column, type=field.type) for column, field in zip(columns, schema, strict=True)]
    return arrow.record_batch(arrays, schema=schema)
