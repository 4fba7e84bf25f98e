"""What `replay` and `rollup` share: comparing bar by bar, printing what differs and what is missing, the summary."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Final

import ujson

from klagg.cli.missing import TOLD_MAX, Coverage, Missing, listed
from klagg.errors import BadDecimal
from klagg.kline import (
    DECIMAL_FIELDS,
    FLOAT_DIGITS_MAX,
    FLOAT_DIGITS_MIN,
    NINE_VALUES,
    SUMS,
    Kline,
    Values,
    differences,
    float_sum_error,
)
from klagg.recordings import KlineRecording, OfficialKline, RefusedRow

COUNTS: Final = ("bars", "exact", "adopted", "different", "partial", "gap", "unmatched", "missing", "float_sums")
"""The numbers of a summary: bars, and of these how many are what; of the exact ones, those in which the exchange's
split of an aggTrade was adopted; ids or klines that are missing; bars of which a sum is equal to the digits of a float
sum only."""
ALWAYS_COUNTED: Final = frozenset({"bars", "exact", "different", "partial"})
"""Those that stand in a summary also if they are 0."""

REFUSED_SHOWN: Final = 20
"""Refused rows that are named."""

SUMMARY_HELP: Final = (
    "The last line is a JSON summary; beside bars, exact, different and partial it has these counts where they are "
    "not 0. `partial`: the first or the last bar, which the source does not cover; `gap`: a bar between them of "
    "which the source lacks something or all; `unmatched`: a bar that the official file does not hold; `missing`: "
    "what the source lacks in the middle, which is named by range; `adopted`: of the exact bars, those in which fills "
    "at a close count where the official file has them (--edges exchange). The exit code is 1 if a bar is different or "
    "a gap, if anything is missing that equal bars do not prove to be nothing, or if nothing could be compared. "
    "`refused`: a row that cannot be what its file holds, or trades that come too late or are too fine, which one "
    "sentence names by range; the others count, and the exit code is 1. "
    "`uncounted`: a trade that no kline counts (quantity 0, struck out, insurance fund)."
)


def number(text: str) -> Decimal:
    """A decimal text as a number; BadDecimal if it is none."""
    try:
        return Decimal(text)
    except InvalidOperation:
        raise BadDecimal(text, "not a number") from None


def values_of_kline(kline: Kline) -> Values:
    """The nine values of one of our klines."""
    decimals = {name: number(getattr(kline, name)) for name in DECIMAL_FIELDS}
    return {**decimals, "trades": kline.trades}


def values_of_official(row: OfficialKline) -> Values:
    """The nine values of an official row, None where its file has no such column."""
    values = {name: getattr(row, name) for name in NINE_VALUES}
    return {name: number(value) if isinstance(value, str) else value for name, value in values.items()}


def float_columns(recording: KlineRecording, rows: Iterable[OfficialKline], exact: Iterable[Values]) -> frozenset[str]:
    """The sums that a file holds as floats: with as many digits as a float is printed with, and with decimals that
    vary from row to row or are more than those of `exact`, the other side's values.

    The exchange's own files, and klagg's, have all values of a column at one scale.
    """
    if recording.layout.exact:
        return frozenset()
    rows, exact = list(rows), list(exact)
    return frozenset(name for name in SUMS if _is_float_column(name, rows, exact))


def _is_float_column(name: str, rows: Sequence[OfficialKline], exact: Sequence[Values]) -> bool:
    texts = [text for row in rows if (text := getattr(row, name)) is not None]
    values = [number(text) for text in texts]
    digits = max((len(value.normalize().as_tuple().digits) for value in values), default=0)
    if not FLOAT_DIGITS_MIN <= digits <= FLOAT_DIGITS_MAX:
        return False
    scales = {len(text.partition(".")[2]) for text in texts}
    finest = max((_decimals(Decimal(value)) for each in exact if (value := each.get(name)) is not None), default=0)
    return len(scales) > 1 or max(_decimals(value.normalize()) for value in values) > finest


def _decimals(value: Decimal) -> int:
    """The decimals that a value is written with."""
    exponent = value.as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


class RefusedRows:
    """Rows of recordings that cannot be what they should: the first are named on standard error, all are counted.

    `uncounted` counts trades that count in no kline: of quantity 0, struck out, of a kind that klines leave out.
    """

    def __init__(self, command: str, *, quiet: bool = False) -> None:
        """`quiet` names none: whoever reads a file again has named them before."""
        self._command, self._quiet = command, quiet
        self.count = self.uncounted = 0

    def __call__(self, row: RefusedRow | str) -> None:
        """Refuse a row, or what a sentence names."""
        self.count += 1
        if self._quiet:
            return
        if self.count <= REFUSED_SHOWN:
            print(f"klagg {self._command}: refused: {row}", file=sys.stderr)
        elif self.count == REFUSED_SHOWN + 1:
            print(f"klagg {self._command}: more rows are refused; the summary counts them", file=sys.stderr)

    def summary(self) -> dict[str, int]:
        """What a summary says of them: nothing where there are none."""
        counts = {"refused": self.count, "uncounted": self.uncounted}
        return {name: count for name, count in counts.items() if count}


class ComparisonReport:
    """Counts and prints.

    A bar is `exact` if all values that both sides have are equal, whatever its source lacks: what is missing was no
    part of it. Else it is `partial` or a `gap` if its source does not cover it, else `different`. A bar without an
    official row is `unmatched` if the source covers it.
    """

    def __init__(self, as_json: bool, refused: RefusedRows, floats: frozenset[str] = frozenset()) -> None:
        """`refused` has the rows that were passed over, `floats` names the sums that a side made in floats."""
        self._json = as_json
        self._refused = refused
        self._floats = floats
        self._wrong = False
        self._compared = 0
        self._terms = 0
        self._loosest = Decimal(0)
        self._ranges: list[dict[str, object]] = []
        self.counts = dict.fromkeys(COUNTS, 0)

    def show(self, line: str, fields: Mapping[str, object], coverage: Coverage, lacks: Sequence[Missing]) -> None:
        """One bar without anything to compare it with: as a line of text, or as fields of a JSON object."""
        self.counts["bars"] += 1
        if coverage is not Coverage.WHOLE:
            self.counts[coverage] += 1
            line = f"{line} {coverage}{self._lacking(lacks)}"
        self._wrong = self._wrong or coverage is Coverage.GAP or bool(lacks)
        told = {**fields, "coverage": coverage, "lacks": listed(lacks)}
        print(ujson.dumps(told, ensure_ascii=False) if self._json else line)

    def compare(
        self,
        symbol: str,
        open_time: int,
        ours: Values | None,
        theirs: Values | None,
        *,
        coverage: Coverage,
        lacks: Sequence[Missing] = (),
        terms: int = 0,
        due: bool = False,
        adopted: str = "",
    ) -> None:
        """One bar: ours (None: we have none), the exchange's (None: its file has none, though it is `due`). `terms` is
        the number of terms that the sums of the bar have. `adopted` says which fills ours counts as the exchange does,
        and not where their aggTrade is (empty: none)."""
        self.counts["bars"] += 1
        self.counts["adopted"] += bool(adopted)
        verdict, fields = self._judged(ours, theirs, coverage, terms)
        self.counts[verdict] += 1
        self._compared += theirs is not None
        self._wrong = (
            self._wrong
            or verdict in {"different", Coverage.GAP}
            or (verdict == "unmatched" and due)
            or (verdict == Coverage.PARTIAL and bool(lacks))
        )
        if self._json:
            told = {"symbol": symbol, "open_time": open_time, "verdict": verdict, "fields": fields}
            told |= {"adopted": adopted} if adopted else {}
            print(ujson.dumps({**told, "lacks": listed(lacks)}, ensure_ascii=False))
        elif verdict != "exact" or adopted:
            fields += [adopted] if adopted else []
            print(f"{symbol} {open_time} {verdict}{': ' if fields else ''}{'; '.join(fields)}{self._lacking(lacks)}")

    def _judged(
        self, ours: Values | None, theirs: Values | None, coverage: Coverage, terms: int
    ) -> tuple[str, list[str]]:
        lacking = str(coverage) if coverage is not Coverage.WHOLE else ""
        if ours is None:
            return lacking or "different", ["there is no such bar"]
        if theirs is None:
            return lacking or "unmatched", []
        found = differences(ours, theirs, float_terms=dict.fromkeys(self._floats, max(terms, 1)))
        if not found:
            self._count_float_sums(ours, theirs, max(terms, 1))
            return "exact", []
        return lacking or "different", [f"{each.name} {each.ours} instead of {each.theirs}" for each in found]

    def _count_float_sums(self, ours: Values, theirs: Values, terms: int) -> None:
        """Remember a bar whose sums are equal to the digits of a float sum only."""
        sums = [Decimal(each.theirs) for each in differences(ours, theirs)]
        if sums:
            self.counts["float_sums"] += 1
            self._terms = max(self._terms, terms)
            self._loosest = max(self._loosest, *(float_sum_error(each, terms) / each for each in sums if each))

    @staticmethod
    def _lacking(lacks: Sequence[Missing]) -> str:
        return f"; lacks {listed(lacks)}" if lacks else ""

    def absent(self, count: int) -> None:
        """So many bars between the first and the last are missing altogether, on both sides of a comparison."""
        self.counts["bars"] += count
        self.counts[Coverage.GAP] += count
        self._wrong = self._wrong or count > 0

    def tell_missing(self, missing: Sequence[Missing]) -> None:
        """What the source lacks in the middle, all bars together: the first stretches, and how many more."""
        if not missing:
            return
        more = missing[TOLD_MAX:]
        self.counts["missing"] += sum(each.count for each in missing)
        self._ranges = [each.told() for each in missing[:TOLD_MAX]]
        if more:
            self._ranges.append({"missing": "more", "ranges": len(more), "count": sum(each.count for each in more)})
        if not self._json:
            print("\n".join(each.sentence() for each in missing[:TOLD_MAX]))
            if more:
                print(f"and {len(more):,} more stretches ({sum(each.count for each in more):,})")

    def conclude(self, compared_with: str = "") -> int:
        """The summary as the last line; the exit code. `compared_with` names what the bars were compared with."""
        nothing = bool(compared_with) and not self._compared
        if self.counts["float_sums"] and not self._json:
            print(self._of_float_sums())
        if nothing and not self._json:
            print(f"nothing was compared: {compared_with} holds no bar of the time that the source covers")
        summary: dict[str, object] = {
            name: count for name, count in self.counts.items() if count or name in ALWAYS_COUNTED
        }
        summary |= self._refused.summary()
        if self._json and self._ranges:
            summary["missing_ranges"] = self._ranges
        if nothing:
            summary["nothing_compared"] = True
        print(ujson.dumps(summary, ensure_ascii=False))
        return 1 if self._wrong or nothing or self._refused.count else 0

    def _of_float_sums(self) -> str:
        digits = round(-math.log10(self._loosest)) if self._loosest else FLOAT_DIGITS_MIN
        return (
            f"{self.counts['float_sums']:,} of {self._compared:,} bars were compared as float sums "
            f"({', '.join(sorted(self._floats))}): a file holds sums that were made in float64, which of "
            f"{self._terms:,} terms are right to about {digits} digits, and to so many they are equal"
        )
