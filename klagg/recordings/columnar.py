"""Reads Arrow and Parquet tables of klines, as klagg's downloads are and as table tools write them.

They need pyarrow, which is optional; without it that is one sentence.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO, Final

from klagg.errors import RecordingError
from klagg.recordings.files import open_bytes
from klagg.recordings.layouts import Content, RecordingLayout, klines_by_name

_PARQUET: Final = b"PAR1"
_ARROW_FILE: Final = b"ARROW1"
_ARROW_STREAM: Final = b"\xff\xff\xff\xff"
"""First bytes (Apache Parquet, "File Format"; Arrow columnar format, "IPC File Format" and "Encapsulated message")."""

ROWS_MAX: Final = 10_000
"""Rows that are unpacked at once."""


def detect(path: Path) -> RecordingLayout | None:
    """The layout of an Arrow or Parquet table of klines; None if the file is neither.

    RecordingError if it cannot be read, holds no klines, or pyarrow is not there.
    """
    content = _content_of(path)
    if content is None:
        return None
    with open_bytes(path) as stream:
        schema, _ = _opened(path, content, stream)
    layout = klines_by_name(list(schema.names), content)
    if layout is None:
        what = content.value.split(maxsplit=1)[0]
        raise RecordingError(str(path), 0, f"is a table ({what}), but its columns are not those of klines")
    decimal = _library(path).types.is_decimal
    kinds = [schema.types[place] for name, place in (layout.columns or {}).items() if name.endswith("volume")]
    return replace(layout, exact=all(map(decimal, kinds)))


def rows(path: Path, layout: RecordingLayout) -> Iterator[tuple[int, list[Any]]]:
    """(number from 1, values in the order of the columns) of each row: times as ms since 1970, decimals as
    texts. Raises RecordingError."""
    number = 0
    with open_bytes(path) as stream:
        for batch in _batches(path, layout.content, stream):
            for row in zip(*(_texts(column) for column in batch.columns), strict=True):
                number += 1
                yield number, list(row)


def _content_of(path: Path) -> Content | None:
    with open_bytes(path) as stream:
        head = stream.read(len(_ARROW_FILE))
    if head[:4] == _PARQUET:
        return Content.PARQUET_KLINES
    return Content.ARROW_KLINES if head == _ARROW_FILE or head[:4] == _ARROW_STREAM else None


def _library(path: Path) -> Any:
    try:
        return importlib.import_module("pyarrow")
    except ImportError:
        raise RecordingError(
            str(path), 0, "is an Arrow or Parquet table, which needs pyarrow to be read: pip install klagg[arrow]"
        ) from None


def _batches(path: Path, content: Content, stream: BinaryIO) -> Iterator[Any]:
    """The record batches, of ROWS_MAX rows at most."""
    arrow = _library(path)
    try:
        for batch in _opened(path, content, stream)[1]:
            for start in range(0, batch.num_rows, ROWS_MAX):
                yield batch.slice(start, ROWS_MAX)
    except (arrow.ArrowException, OSError) as error:
        raise RecordingError(str(path), 0, f"is damaged or cut off ({str(error).splitlines()[0]})") from error


def _opened(path: Path, content: Content, stream: BinaryIO) -> tuple[Any, Iterator[Any]]:
    """The schema and the batches. RecordingError for a file that cannot be one."""
    arrow = _library(path)
    try:
        if content is Content.PARQUET_KLINES:
            table = importlib.import_module("pyarrow.parquet").ParquetFile(stream)
            return table.schema_arrow, table.iter_batches(ROWS_MAX)
        if stream.read(len(_ARROW_FILE)) == _ARROW_FILE:
            stream.seek(0)
            file = arrow.ipc.open_file(stream)
            return file.schema, (file.get_batch(at) for at in range(file.num_record_batches))
        stream.seek(0)
        found = arrow.ipc.open_stream(stream)
        return found.schema, iter(found)
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise RecordingError(
            str(path),
            0,
            f"cannot be read as a table ({str(error).splitlines()[0]})",
        ) from error


def _texts(column: Any) -> list[Any]:
    """A column's values as the readers of rows take them."""
    arrow = importlib.import_module("pyarrow")
    kind = column.type
    if arrow.types.is_timestamp(kind):
        return list(column.cast(arrow.timestamp("ms", kind.tz), safe=False).cast(arrow.int64()).to_pylist())
    values = column.to_pylist()
    if arrow.types.is_decimal(kind):
        scale = max((_decimals_of(value) for value in values if value is not None), default=0)
        return [None if value is None else f"{value:.{scale}f}" for value in values]
    if arrow.types.is_floating(kind):
        return [None if value is None else repr(value) for value in values]
    return list(values)


def _decimals_of(value: Decimal) -> int:
    """The decimals that a value needs: the column's type adds zeros behind them."""
    exponent = value.normalize().as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0
