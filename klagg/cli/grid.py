"""Whether klines of a file are on klagg's grid of an interval: which interval they are of, and where its bars open."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from klagg.cli.comparison import values_of_official
from klagg.cli.missing import moment
from klagg.errors import ConfigError
from klagg.intervals import DAY_MS, HOUR_MS, INTERVALS, MINUTE_MS, SECOND_MS, Interval
from klagg.kline import NINE_VALUES
from klagg.recordings import KlineRecording, OfficialKline, Refuse, RefusedRow

_ENOUGH_ROWS: Final = 4
"""From so many rows on the distance of the closest two tells the interval; fewer may be what gaps have left."""


def on_grid(recording: KlineRecording, kind: Interval, refused: Refuse) -> list[OfficialKline]:
    """The rows of a file that can be klines of `kind`; `refused` gets each of the others.

    ConfigError, in one sentence, if the file as a whole is on another grid.
    """
    numbered = list(recording.numbered(refused))
    check_grid([row for _, row in numbered], kind, str(recording.path))
    path = str(recording.path)
    return once([(path, kept(numbered, kind, path, refused))], refused)


def to_compare(recording: KlineRecording, kind: Interval, refused: Refuse) -> list[OfficialKline]:
    """The rows of a file to compare with: those of `on_grid`, and those that `refused` got as impossible on the grid.
    They are compared all the same, because whoever asks wants to know in what such a row differs."""
    impossible: list[OfficialKline] = []

    def refuse(row: RefusedRow) -> None:
        refused(row)
        if row.kline is not None and not _off_grid(row.kline, kind):
            impossible.append(row.kline)

    rows = on_grid(recording, kind, refuse)
    return [*impossible, *rows]


def kept(
    numbered: Sequence[tuple[int, OfficialKline]], kind: Interval, path: str, refused: Refuse
) -> list[tuple[int, OfficialKline]]:
    """Those of a file's rows (each with its number) that are on the grid of `kind`; `refused` gets the others."""
    rows = []
    for number, row in numbered:
        if why := _off_grid(row, kind):
            refused(RefusedRow(path, number, why))
        else:
            rows.append((number, row))
    return rows


def once(sources: Iterable[tuple[str, Iterable[tuple[int, OfficialKline]]]], refused: Refuse) -> list[OfficialKline]:
    """The rows of files, (path, numbered rows), by open time. A kline that comes again with the same values counts
    once; with others `refused` gets it, and the first one is not whole: nobody knows which of them is right."""
    found: dict[int, tuple[str, OfficialKline]] = {}
    for path, numbered in sources:
        for number, row in numbered:
            before, held = found.setdefault(row.open_time_ms, (path, row))
            if held is row:
                continue
            if name := _difference(held, row):
                theirs, own = getattr(held, name), getattr(row, name)
                why = f"the kline that opens at {row.open_time_ms} has {name} {own}, and {theirs} in {before}"
                refused(RefusedRow(path, number, why))
                found[row.open_time_ms] = before, replace(held, whole=False)
            elif row.whole and not held.whole:
                found[row.open_time_ms] = path, row
    return [found[each][1] for each in sorted(found)]


def _difference(one: OfficialKline, other: OfficialKline) -> str:
    """The first of the nine values in which two rows differ; empty if in none that both have."""
    ours, theirs = values_of_official(one), values_of_official(other)
    return next(
        (name for name in NINE_VALUES if None not in {ours[name], theirs[name]} and ours[name] != theirs[name]), ""
    )


def check_grid(rows: Sequence[OfficialKline], kind: Interval, path: str) -> None:
    """ConfigError, in one sentence, if a file is not one of klines of `kind` that open where klagg's do: most of its
    rows do not. Single rows that do not are bad rows (`kept`)."""
    times = sorted(row.open_time_ms for row in rows)
    off = [each for each in times if kind.open_time(each) != each]
    length = _usual_length(rows)
    other = _other_by_distance(times, kind) if length is None else None if _is_of(length, kind) else length
    if other is not None:
        raise ConfigError(f"{path} does not hold {kind.name} klines: its bars are {spell(other)} long")
    if 2 * len(off) > len(times):
        shifts = [_shift(each, kind) for each in off]
        least, most = min(shifts), max(shifts)
        by = _side(least) if least == most else f"between {_side(least)} and {_side(most)}"
        never = ", so that no bar of one is a bar of the other" if len(off) == len(times) else ""
        raise ConfigError(
            f"{path} is on another grid: its {kind.name} bars open {by} than klagg's (the first at {moment(off[0])}, "
            f"klagg's at {moment(off[0] - shifts[0])}){never}"
        )


def _off_grid(row: OfficialKline, kind: Interval) -> str:
    """Why a row is no bar of `kind`, as a clause of a sentence; empty if it is one."""
    opened, closed = row.open_time_ms, row.close_time_ms
    if kind.open_time(opened) != opened:
        return f"open time {opened} is not where a bar of {kind.name} opens"
    # Those a little shorter or longer are the exchange's own: its spot dumps have bars that an outage cut.
    if closed is not None and closed >= opened + 2 * kind.shortest_ms - 1:
        return f"the row that opens at {opened} is longer than a {kind.name} bar: it closes at {closed}"
    return ""


def step_of(rows: Sequence[OfficialKline], path: str) -> Interval:
    """The interval of klines, from their close times or else from the distance of the closest two.

    ConfigError if it cannot be told, is none that klagg knows, or the rows are not on its grid.
    """
    if not rows:
        raise ConfigError(f"{path} holds no klines of bars that are over")
    times = sorted({row.open_time_ms for row in rows})
    length = _usual_length(rows) or min((late - early for early, late in itertools.pairwise(times)), default=0)
    if not length:
        raise ConfigError(f"{path}: one row without a close time does not tell its interval")
    step = next((each for each in INTERVALS.values() if _is_of(length, each)), None)
    if step is None:
        raise ConfigError(f"{path}: its rows are {spell(length)} apart, which is no interval that klagg knows")
    check_grid(rows, step, path)
    return step


def spell(length_ms: int) -> str:
    """A length of time in the largest units that it fills."""
    parts = []
    for unit_ms, name in ((DAY_MS, "day"), (HOUR_MS, "hour"), (MINUTE_MS, "minute"), (SECOND_MS, "second"), (1, "ms")):
        count, length_ms = divmod(length_ms, unit_ms)
        if count:
            parts.append(f"{count} {name}{'s' if count > 1 and name != 'ms' else ''}")
    return " ".join(parts)


def _usual_length(rows: Sequence[OfficialKline]) -> int | None:
    """The length that most rows have by their close times; None if these are not known."""
    lengths = Counter(row.close_time_ms + 1 - row.open_time_ms for row in rows if row.close_time_ms is not None)
    return lengths.most_common(1)[0][0] if lengths else None


def _is_of(length_ms: int, kind: Interval) -> bool:
    return length_ms == kind.length_ms or (kind.length_ms == 0 and kind.shortest_ms <= length_ms <= 31 * DAY_MS)


def _other_by_distance(times: Sequence[int], kind: Interval) -> int | None:
    """The length of the bars if their distance says that they are not of `kind`; None if they may be. Bars further
    apart may be what gaps have left, unless all of them open where those of a longer interval do."""
    closest = min((late - early for early, late in itertools.pairwise(times) if late > early), default=0)
    if len(times) < _ENOUGH_ROWS or _is_of(closest, kind):
        return None
    if closest < kind.shortest_ms:
        return closest
    longer = next((each for each in INTERVALS.values() if each.length_ms == closest), None)
    return closest if longer and all(longer.open_time(each) == each for each in times) else None


def _shift(time_ms: int, kind: Interval) -> int:
    """How much later (or earlier, below 0) than the nearest bar's a time is, in ms."""
    opened = kind.open_time(time_ms)
    following = kind.close_time(opened) + 1
    return time_ms - opened if time_ms - opened <= following - time_ms else time_ms - following


def _side(shift_ms: int) -> str:
    return f"{spell(abs(shift_ms))} {'later' if shift_ms > 0 else 'earlier'}"
