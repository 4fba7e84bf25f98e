"""Klines as files: CSV, JSON, Arrow and Parquet, page by page. Arrow and Parquet need pyarrow, which is optional.

The types of decimals in Arrow and Parquet are chosen so that table engines can compute with them (`decimal_types`).
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final, NamedTuple, Protocol

from gateway.endpoints import Decimals
from gateway.openapi import KLINE_FIELDS, NULLABLE_IDS
from klagg.binance.serving.payloads import compact
from klagg.errors import KlaggError
from klagg.kline import DECIMAL_FIELDS, Kline

MEDIA: Final = {
    "csv": "text/csv",
    "json": "application/json",
    "arrow": "application/vnd.apache.arrow.stream",
    "parquet": "application/vnd.apache.parquet",
}


PRICES: Final = ("open", "high", "low", "close")
VOLUMES: Final = ("volume", "taker_buy_volume")
QUOTES: Final = ("quote_volume", "taker_buy_quote_volume")

PRECISION_MAX: Final = 38
"""The most digits of a decimal128 (Arrow columnar format, "Decimal")."""
PRICE_PRECISION: Final = 18
VOLUME_PRECISION: Final = 19
"""One more than fits 64 bits, so that ClickHouse multiplies in 128 bits; with 18 its product overflows. pyarrow's
product and quotient of 18 and 19 digits have 38, its most."""


class DigitsChanged(KlaggError):
    """A bar has more digits than the file has places for: it came while the file was written. Ask again."""


class Places(NamedTuple):
    """The most digits before the dot, and behind it, of some decimals."""

    whole: int = 1
    fraction: int = 0

    def joined(self, other: Places) -> Places:
        """The places that both need."""
        return Places(max(self.whole, other.whole), max(self.fraction, other.fraction))


NO_PLACES: Final = Places()


@dataclass(frozen=True, slots=True)
class Digits:
    """The places that the prices, the base volumes and the quote volumes of some bars need."""

    prices: Places = NO_PLACES
    volumes: Places = NO_PLACES
    quotes: Places = NO_PLACES

    def joined(self, other: Digits) -> Digits:
        """The places that both need."""
        return Digits(
            self.prices.joined(other.prices), self.volumes.joined(other.volumes), self.quotes.joined(other.quotes)
        )

    @classmethod
    def of(cls, klines: Iterable[Kline]) -> Digits:
        """The places that these bars need."""
        found = cls()
        for each in klines:
            found = found.joined(cls(*(_places(each, names) for names in (PRICES, VOLUMES, QUOTES))))
        return found


def _places(kline: Kline, names: Sequence[str]) -> Places:
    parts = [str(getattr(kline, name)).lstrip("-").partition(".") for name in names]
    return Places(max(len(whole) for whole, _, _ in parts), max(len(fraction) for _, _, fraction in parts))


def decimal_types(digits: Digits) -> dict[str, tuple[int, int]]:
    """(precision, scale) of every decimal column, so that `close * volume` and `quote_volume / volume` work in pyarrow,
    DuckDB, polars, DataFusion and chDB, and the product is exact in all of them.

    Prices and quote volumes have 18 digits and their own scale. Base volumes have 19 digits and, where that leaves
    room, the scale of price times quantity: polars rounds a product to the larger scale of its factors. Values that
    need more get 38 digits, which hold everything and which few engines can multiply.
    """
    product = digits.prices.fraction + digits.volumes.fraction
    scale = product if digits.volumes.whole + product <= VOLUME_PRECISION else digits.volumes.fraction

    def kind(places: Places, precision: int, scale: int) -> tuple[int, int]:
        return (precision if places.whole + scale <= precision else PRECISION_MAX), scale

    return {
        **dict.fromkeys(PRICES, kind(digits.prices, PRICE_PRECISION, digits.prices.fraction)),
        **dict.fromkeys(VOLUMES, kind(digits.volumes, VOLUME_PRECISION, scale)),
        **dict.fromkeys(QUOTES, kind(digits.quotes, PRICE_PRECISION, digits.quotes.fraction)),
    }


NO_DIGITS: Final = Digits()


@dataclass(frozen=True, slots=True)
class FileLayout:
    """What a file holds beside the bars' own fields, and how. `digits` matter to exact Arrow and Parquet alone."""

    digits: Digits = NO_DIGITS
    decimals: Decimals = Decimals.EXACT
    with_symbol: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The columns in their order."""
        return ("symbol", *KLINE_FIELDS) if self.with_symbol else KLINE_FIELDS

    def row(self, kline: Kline) -> dict[str, Any]:
        """The values of a bar, decimals as texts or floats."""
        found = {"symbol": kline.symbol, **fields_of(kline)} if self.with_symbol else fields_of(kline)
        if self.decimals is Decimals.FLOAT:
            found |= {name: float(found[name]) for name in DECIMAL_FIELDS}
        return found


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
    """A header and one line for each bar; an unknown value is an empty field. Decimals are exact digits in any case."""

    def __init__(self, layout: FileLayout) -> None:
        self._layout = replace(layout, decimals=Decimals.EXACT)
        self._begun = False

    def page(self, klines: Sequence[Kline]) -> bytes:
        """The lines of these bars; before the first page the header."""
        lines = [] if self._begun else [",".join(self._layout.names)]
        self._begun = True
        lines += (",".join(map(_csv, self._layout.row(each).values())) for each in klines)
        return "".join(f"{line}\n" for line in lines).encode()

    def end(self) -> bytes:
        """Nothing, or the header of a file without bars."""
        return b"" if self._begun else self.page([])


class JsonFile:
    """One array, one line for each bar."""

    def __init__(self, layout: FileLayout) -> None:
        self._layout = layout
        self._before = "["

    def page(self, klines: Sequence[Kline]) -> bytes:
        """The items of these bars."""
        parts = []
        for each in klines:
            parts.append(f"{self._before}\n{compact(self._layout.row(each))}")
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
    """An Arrow stream: decimals as the layout says, times as timestamps in ms, UTC, ids as int64 with nulls."""

    def __init__(self, layout: FileLayout) -> None:
        self._arrow: Any = importlib.import_module("pyarrow")
        self._layout = layout
        self._schema = _schema(self._arrow, layout)
        self._buffer = ByteBuffer()
        self._writer = self._open(self._arrow.PythonFile(self._buffer, mode="w"))

    def _open(self, sink: Any) -> Any:
        return self._arrow.ipc.new_stream(sink, self._schema)

    def page(self, klines: Sequence[Kline]) -> bytes:
        """The record batch of these bars. Raises DigitsChanged."""
        if klines:
            self._writer.write_batch(self._batch(klines))
        return self._buffer.drain()

    def _batch(self, klines: Sequence[Kline]) -> Any:
        rows = [self._layout.row(each) for each in klines]
        exact = self._layout.decimals is Decimals.EXACT
        columns = [
            [Decimal(row[name]) for row in rows] if exact and name in DECIMAL_FIELDS else [row[name] for row in rows]
            for name in self._layout.names
        ]
        try:
            arrays = [
                self._arrow.array(each, type=field.type) for each, field in zip(columns, self._schema, strict=True)
            ]
        except self._arrow.ArrowInvalid as wider:
            raise DigitsChanged from wider
        return self._arrow.record_batch(arrays, schema=self._schema)

    def end(self) -> bytes:
        """The end of the stream or file."""
        self._writer.close()
        return self._buffer.drain()


class ParquetFile(ArrowFile):
    """A Parquet file with the same columns, a row group for each page."""

    def _open(self, sink: Any) -> Any:
        return importlib.import_module("pyarrow.parquet").ParquetWriter(sink, self._schema)


def encoder(name: str, layout: FileLayout) -> Encoder:
    """A file of that format, one of `formats`."""
    makers: dict[str, type[CsvFile] | type[JsonFile] | type[ArrowFile]] = {
        "csv": CsvFile,
        "json": JsonFile,
        "arrow": ArrowFile,
        "parquet": ParquetFile,
    }
    return makers[name](layout)


def _csv(value: Any) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _schema(arrow: Any, layout: FileLayout) -> Any:
    kinds = {
        "open_time": arrow.timestamp("ms", "UTC"),
        "close_time": arrow.timestamp("ms", "UTC"),
        "closed": arrow.bool_(),
        "complete": arrow.bool_(),
        "official": arrow.bool_(),
        "symbol": arrow.string(),
        "source": arrow.string(),
        "edge": arrow.string(),
    }
    if layout.decimals is Decimals.EXACT:
        kinds |= {name: arrow.decimal128(*kind) for name, kind in decimal_types(layout.digits).items()}
    else:
        kinds |= dict.fromkeys(DECIMAL_FIELDS, arrow.string() if layout.decimals is Decimals.TEXT else arrow.float64())
    return arrow.schema([(name, kinds.get(name, arrow.int64())) for name in layout.names])
