"""Files of official klines, fast: a good dump in a standard form is read by one pass of a regular expression.

Whatever is not such a dump to the last character is read row by row through klagg.recordings, which knows more formats
and names the line that is bad. A bad row costs itself alone.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from klagg.arrays import Ints
from klagg.decimals import parse_column, parse_integers
from klagg.errors import ContractError, RecordingError
from klagg.intervals import Interval
from klagg.kline import DECIMAL_FIELDS, NINE_VALUES
from klagg.recordings.files import open_bytes
from klagg.recordings.klines import open_klines
from klagg.recordings.model import OfficialKline, RefusedRow
from klagg.row_rules import kline_problem, possible_klines
from writers.backfill_parts import Failure, HistoryRows, OfficialRow, Part, is_other_kind, part_of_file

BATCH_ROWS: Final = 10_000
_OWN_FILES: Final = (".json", ".arrow", ".parquet")
"""What klagg's downloads end with besides .csv; others of that kind are no dumps, and nothing is said of them."""
_READ_BYTES: Final = 1 << 20
_LINE_BYTES_MAX: Final = 1 << 16

_HEADER: Final = (
    b"open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume"
)
_NUMBER: Final = r"([0-9]{1,18}(?:\.[0-9]{1,18})?)"
_LINE: Final = re.compile(
    rf"^([0-9]{{13}}),{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER},([0-9]{{13}}),{_NUMBER},([0-9]{{1,18}}),"
    rf"{_NUMBER},{_NUMBER}(?:,[^,\n]*)?\r?$",
    re.ASCII | re.MULTILINE,
)
_PLACES: Final = dict(zip(DECIMAL_FIELDS, (1, 2, 3, 4, 5, 7, 9, 10), strict=True))
"""The columns of the decimals by name."""

REFUSED_MAX: Final = 20
"""How many refused rows of a file are named; it says how many more there are."""

_PLAIN: Final = re.compile(r"[0-9]+(?:\.[0-9]+)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Found:
    """The dumps in a folder, and the names of files that are passed over, though they might be data."""

    parts: list[Part]
    passed_over: list[str]


def find_dumps(folder: Path, from_ms: int, to_ms: int) -> Found:
    """The parts of [from_ms, to_ms) in a folder and its subfolders. RecordingError if the folder cannot be read."""
    if not folder.is_dir():
        raise RecordingError(str(folder), 0, "is no folder")
    parts, passed_over = [], []
    for path in sorted(folder.rglob("*")):
        if not path.name.endswith((".csv", ".gz", ".zip", *_OWN_FILES)) or not path.is_file():
            continue
        inside = path.relative_to(folder)
        stat = path.stat()
        mark = f"{stat.st_size} {stat.st_mtime_ns}"
        part = None if is_other_kind(inside) else part_of_file(path, from_ms, to_ms, mark)
        if part is None and not path.name.endswith(_OWN_FILES):
            passed_over.append(str(inside))
        elif part and part.bars:
            parts.append(part)
    return Found(parts, passed_over)


def read_dump(part: Part, closed_ms: int) -> Iterator[HistoryRows | Failure]:
    """The rows of a part from its `start_ms` on, some thousand at once; at least one batch, the last to the part's end.

    A bar that closes at `closed_ms` or later may still change: it is left, and the part is loaded up to there. A row
    that cannot be right is a Failure by itself, and the others come. RecordingError if the file cannot be read on; rows
    well before that have been given.
    """
    least = max(part.start_ms, part.from_ms)
    end_ms = max(least, min(part.to_ms, part.interval.open_time(closed_ms)))
    waiting: list[OfficialRow] = []
    for block in _blocks(part):
        if isinstance(block, Failure):
            yield block
            continue
        opens, rows = block
        first, last = (int(at) for at in np.searchsorted(opens, (least, end_ms)))
        if waiting:
            yield HistoryRows(part, waiting, int(waiting[-1][0]) + 1)
        waiting = rows[first:last]
    yield HistoryRows(part, waiting, end_ms)


Block = tuple[Ints, list[OfficialRow]]
"""Open times, ascending, and their rows."""


class _NotStandard(Exception):
    """The file is not a standard dump, or not a good one."""


def _blocks(part: Part) -> Iterator[Block | Failure]:
    after_ms = -1
    try:
        with closing(_fast_blocks(part)) as blocks:
            for block in blocks:
                if not int(block[0][0]) > after_ms:
                    raise _NotStandard
                yield block
                after_ms = int(block[0][-1])
    except _NotStandard:
        yield from _slow_blocks(part, after_ms)


def _fast_blocks(part: Part) -> Generator[Block, None, None]:
    assert part.path is not None
    with open_bytes(part.path) as stream:
        rest = stream.readline(_LINE_BYTES_MAX)
        if not rest:
            raise _NotStandard
        if rest.startswith(_HEADER):
            rest = b""
        while data := stream.read(_READ_BYTES):
            data = rest + data
            cut = data.rfind(b"\n") + 1
            if cut:
                yield _checked(data[:cut], part)
            rest = data[cut:]
            if len(rest) > _LINE_BYTES_MAX:
                raise _NotStandard
        if rest:
            yield _checked(rest, part)


def _checked(lines: bytes, part: Part) -> Block:
    """Whole lines as a block; _NotStandard unless each is a row as the exchange writes them, all in order."""
    rows: list[OfficialRow] = _LINE.findall(lines.decode("latin-1"))
    if len(rows) != lines.count(b"\n") + (not lines.endswith(b"\n")):
        raise _NotStandard
    columns = [",".join(column).encode() for column in zip(*rows, strict=True)]
    try:
        opens, closes, trades = (parse_integers(columns[at], len(rows)) for at in (0, 6, 8))
        decimals = {name: parse_column(columns[at], len(rows)) for name, at in _PLACES.items()}
    except ContractError:
        raise _NotStandard from None
    buckets = part.interval.buckets_of(opens)
    good = (
        (part.interval.opens_of(buckets) == opens)
        & (part.interval.opens_of(buckets + 1) - 1 == closes)
        & (opens >= part.span[0])
        & (opens < part.span[1])
        & possible_klines(decimals, trades)
    )
    if not good.all() or (np.diff(opens) <= 0).any():
        raise _NotStandard
    return opens, rows


def _slow_blocks(part: Part, after_ms: int) -> Iterator[Block | Failure]:
    """What opens after `after_ms`; each row that cannot be right is a Failure, at most REFUSED_MAX of them by name."""
    assert part.path is not None
    rows: list[OfficialRow] = []
    refused: list[RefusedRow] = []
    count, before_ms = 0, -1
    for number, kline in open_klines(part.path, part.symbol, part.interval.name).numbered(refused.append):
        trouble = problem(kline, part, before_ms)
        if trouble:
            refused.append(RefusedRow(str(part.path), number, trouble))
        else:
            before_ms = kline.open_time_ms
            if before_ms > after_ms:
                rows.append(_row_of(kline, part.interval))
        yield from (_failure(part, each) for each in refused[: max(0, REFUSED_MAX - count)])
        count, refused[:] = count + len(refused), []
        if len(rows) == BATCH_ROWS:
            yield _block_of(rows)
            rows = []
    yield from (_failure(part, each) for each in refused[: max(0, REFUSED_MAX - count)])
    count += len(refused)
    if count > REFUSED_MAX:
        more = f"{count - REFUSED_MAX:,} more rows are refused, {count:,} in all"
        yield Failure(part, f"{part.path}: {more}", row=True)
    if rows:
        yield _block_of(rows)


def _failure(part: Part, refused: RefusedRow) -> Failure:
    return Failure(part, str(RecordingError(refused.path, refused.number, refused.reason)), row=True)


def _block_of(rows: list[OfficialRow]) -> Block:
    return np.array([int(row[0]) for row in rows], np.int64), rows


def _row_of(kline: OfficialKline, bars: Interval) -> OfficialRow:
    return (
        str(kline.open_time_ms),
        kline.open,
        kline.high,
        kline.low,
        kline.close,
        kline.volume,
        str(bars.close_time(kline.open_time_ms)),
        str(kline.quote_volume),
        str(kline.trades),
        str(kline.taker_buy_volume),
        str(kline.taker_buy_quote_volume),
    )


def problem(kline: OfficialKline, part: Part, before_ms: int) -> str:
    """Why a row, behind one that opened at `before_ms`, cannot be of a part; empty if it can."""
    opened = kline.open_time_ms
    if not kline.whole:
        return f"the file itself says of the bar that opens at {opened} that it is not complete"
    if not part.span[0] <= opened < part.span[1]:
        return f"open time {opened} is not of the time that the name of the file says"
    if opened <= before_ms:
        return f"open time {opened} does not come after {before_ms}, that of the row before"
    for name in ("quote_volume", "trades", "taker_buy_volume", "taker_buy_quote_volume"):
        if getattr(kline, name) is None:
            return f"there is no {name.replace('_', ' ')}: this is not the exchange's own dump"
    for name in DECIMAL_FIELDS:
        if not _PLAIN.fullmatch(getattr(kline, name)):
            return f"{name.replace('_', ' ')} {getattr(kline, name)!r} is not written as the exchange writes decimals"
    if kline.trades is not None and kline.trades >= 10**18:
        return f"trade count {kline.trades} cannot be"
    values = {name: getattr(kline, name) for name in NINE_VALUES}
    return kline_problem(values, bars=part.interval, open_ms=opened, close_ms=kline.close_time_ms)
