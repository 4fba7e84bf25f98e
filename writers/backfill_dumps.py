"""Files of official klines, fast: a good dump in a standard form is read by one pass of a regular expression.

Whatever is not such a dump to the last character is read row by row through klagg.recordings, which knows more formats
and names the line that is bad.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from klagg.arrays import Ints
from klagg.decimals import parse_column, parse_integers
from klagg.errors import ContractError, KlaggError, RecordingError
from klagg.intervals import EVER_MS, Interval
from klagg.kline import DECIMAL_FIELDS, NINE_VALUES
from klagg.recordings.files import open_bytes
from klagg.recordings.klines import open_klines
from klagg.recordings.model import OfficialKline, RefusedRow
from klagg.row_rules import kline_problem, possible_klines
from writers.backfill_parts import (
    BAD_KEPT_MAX,
    OTHER_KINDS,
    OWN_MARKET,
    BadRow,
    HistoryRows,
    OfficialRow,
    Part,
    is_coin_margined,
    other_kind,
    part_of_file,
)

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

_PLAIN: Final = re.compile(r"[0-9]+(?:\.[0-9]+)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Found:
    """The dumps in a folder, and the names of files that are passed over, though they might be data: `other` are of
    another market or price, `unnamed` have no name of a dump of klines."""

    parts: list[Part]
    other: list[str]
    unnamed: list[str]


OF_SPOT: Final = "has times in µs, so its klines are of the spot market, and none of them is loaded"


class OtherKind(KlaggError):
    """These klines are not those of the trades of USDⓈ-M futures."""

    def __init__(self, path: Path, kind: str) -> None:
        super().__init__(
            f"{path} is refused, because its klines are {kind}, and klagg's are those of the trades of USDⓈ-M futures: "
            "name a folder of data/futures/um/…/klines"
        )


def find_dumps(folder: Path, from_ms: int, to_ms: int) -> Found:
    """The parts of [from_ms, to_ms) in a folder and its subfolders, judged by where they lie and by their names.

    RecordingError if the folder cannot be read, OtherKind if the folder itself is of another market or price.
    """
    if not folder.is_dir():
        raise RecordingError(str(folder), 0, "is no folder")
    refuse_other_kind(folder)
    found = Found([], [], [])
    for path in sorted(folder.rglob("*")):
        if not path.name.endswith((".csv", ".gz", ".zip", *_OWN_FILES)) or not path.is_file():
            continue
        inside = str(path.relative_to(folder))
        stat = path.stat()
        part = part_of_file(path, from_ms, to_ms, f"{stat.st_size} {stat.st_mtime_ns}")
        if part is None and path.name.endswith(_OWN_FILES):
            continue
        if kind_of(path):
            found.other.append(inside)
        elif part is None:
            found.unnamed.append(inside)
        elif part.bars:
            found.parts.append(part)
    return found


def kind_of(path: Path) -> str:
    """What the klines of a folder or file are of if not of the trades of USDⓈ-M futures; empty if they may be.

    Judged by where it really lies, symbolic links resolved, then by the path by which it was named, then by its name.
    """
    resolved, named = path.resolve(), Path(os.path.normpath(path.absolute()))
    if not path.is_dir():
        symbols = [part.symbol for each in (resolved, named) if (part := part_of_file(each, 0, EVER_MS))]
        if any(map(is_coin_margined, symbols)):
            return OTHER_KINDS["cm"]
        resolved, named = resolved.parent, named.parent
    by_place = other_kind(resolved)
    sure = OWN_MARKET in map(str.casefold, resolved.parts)
    return by_place if sure else by_place or other_kind(named)


def refuse_other_kind(path: Path) -> None:
    """OtherKind if the klines of a folder or file are of another market or price."""
    kind = kind_of(path)
    if kind:
        raise OtherKind(path, kind)


def read_dump(part: Part, closed_ms: int) -> Iterator[HistoryRows]:
    """The rows of a part from its `start_ms` on, some thousand at once; at least one batch, the last to the part's end.

    A bar that closes at `closed_ms` or later may still change: it is left, and the part is loaded up to there. Rows
    that cannot be klines are left out, and named with the batches (`HistoryRows.bad`). RecordingError if the file
    cannot be read on, or most of its rows are bad; rows before that have been given.
    """
    least = max(part.start_ms, part.from_ms)
    end_ms = max(least, min(part.to_ms, part.interval.open_time(closed_ms)))
    waiting: list[OfficialRow] = []
    faults = Faults(part)
    for opens, rows in _blocks(part, faults):
        first, last = (int(at) for at in np.searchsorted(opens, (least, end_ms)))
        if waiting:
            yield HistoryRows(part, waiting, int(waiting[-1][0]) + 1, tuple(faults.first), faults.count)
        waiting = rows[first:last]
    yield HistoryRows(part, waiting, end_ms, tuple(faults.first), faults.count)


class Faults:
    """The rows of a part that cannot be klines: the first BAD_KEPT_MAX, and how many there are."""

    def __init__(self, part: Part) -> None:
        self._part = part
        self.first: list[BadRow] = []
        self.count = 0

    def add(self, line: int, why: str, opened: int, before_ms: int) -> None:
        """Note a row that opens at `opened` (UTC ms; -1: not known), behind a good one that opened at `before_ms`.

        The bar that lacks is the one that holds `opened` if it can be behind that one, or else the next.
        """
        part = self._part
        bars = part.interval
        lacks = bars.open_time(opened) if opened > before_ms else -1
        if not max(before_ms + 1, part.span[0]) <= lacks < part.span[1]:
            lacks = bars.open_of(bars.bucket_of(before_ms) + 1) if before_ms >= 0 else part.span[0]
        if not part.from_ms <= lacks < part.to_ms:
            return
        self.count += 1
        if len(self.first) < BAD_KEPT_MAX:
            self.first.append(BadRow(line, lacks, why))


Block = tuple[Ints, list[OfficialRow]]
"""Open times, ascending, and their rows."""


class _NotStandard(Exception):
    """The file is not a standard dump, or not a good one."""


def _blocks(part: Part, faults: Faults) -> Iterator[Block]:
    after_ms = -1
    try:
        with closing(_fast_blocks(part)) as blocks:
            for block in blocks:
                if not int(block[0][0]) > after_ms:
                    raise _NotStandard
                yield block
                after_ms = int(block[0][-1])
    except _NotStandard:
        if open_klines(part.path or "", part.symbol, part.interval.name).is_of_spot:
            raise RecordingError(str(part.path), 1, OF_SPOT) from None
        _refuse_mostly_bad(part)
        yield from _slow_blocks(part, after_ms, faults)


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


def _refuse_mostly_bad(part: Part) -> None:
    """RecordingError if most rows of a file cannot be klines: then it is of something else, and none is believed."""
    faults = Faults(replace(part, from_ms=part.span[0], to_ms=part.span[1]))
    good = sum(1 for _ in _good_rows(part, faults))
    if faults.count > good:
        first = faults.first[0]
        others = (
            "" if faults.count == 1 else f"; so are {faults.count - 1:,} others of its {good + faults.count:,} rows"
        )
        raise RecordingError(str(part.path), first.line, f"{first.why}{others}, so none of them is loaded")


def _slow_blocks(part: Part, after_ms: int, faults: Faults) -> Iterator[Block]:
    """What opens after `after_ms`, but for the rows that cannot be klines, which `faults` receives."""
    rows: list[OfficialRow] = []
    for kline in _good_rows(part, faults):
        if kline.open_time_ms > after_ms:
            rows.append(_row_of(kline, part.interval))
        if len(rows) == BATCH_ROWS:
            yield _block_of(rows)
            rows = []
    if rows:
        yield _block_of(rows)


def _good_rows(part: Part, faults: Faults) -> Iterator[OfficialKline]:
    """The klines of a file in order. Of two rows out of order the one is bad without which the others are in order."""
    assert part.path is not None
    before_ms = -1
    waiting: tuple[int, OfficialKline] | None = None
    refused: list[RefusedRow] = []

    def given() -> Iterator[tuple[int, OfficialKline] | None]:
        yield from open_klines(part.path or "", part.symbol, part.interval.name).numbered(refused.append)
        yield None

    for row in given():
        if waiting is not None:
            number, kline = waiting
            opened = kline.open_time_ms
            trouble = problem(kline, part, before_ms)
            if not trouble and row is not None and before_ms < row[1].open_time_ms < opened:
                trouble = f"open time {opened} is followed by {row[1].open_time_ms}, that of the row after"
            if trouble:
                faults.add(number, trouble, opened, before_ms)
            else:
                yield kline
                before_ms = opened
        for each in refused:
            faults.add(each.number, each.reason, -1 if each.open_ms is None else each.open_ms, before_ms)
        refused.clear()
        waiting = row


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
