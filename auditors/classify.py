"""Our klines against the exchange's own, and why they differ where they do. Pure.

An aggTrade has the time of its first fill; later fills come up to 100 ms after it, and the exchange counts fills. So
fills of an aggTrade right before a close may be in our earlier bar and in the exchange's later one. A bar lists such
aggTrades as its `edge`. A run of bars that differ is an EDGE_SHIFT if what is too much at each boundary can be the
later fills of the aggTrades listed there, and nothing is left at the end of the run. Where the exchange's rows begin or
end, one of the two bars has to do.

So it is beside a bar that holds official rows (its source is not `own`): there fills at the close are where the
exchange counts them, on the other side they are where their aggTrade is; they are missing, or counted twice. Of a
longer bar the close of such a minute may lie inside: the edges of its minutes prove it.

Behind a bar that is not here, or not complete, nobody knows which fills came out of it. One aggTrade's later fills are
proven by their price all the same. Several together are the missing bar's LOCAL_GAP: what the bar behind it is short by
may have come out of it, as far as prices and amounts allow, and is known when the missing bar comes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from itertools import combinations
from typing import Final

from klagg.edge_splits import AMOUNTS, OWN, Edge, edges_of, values_of
from klagg.intervals import MINUTE, MINUTE_MS, Interval
from klagg.kline import Kline, Values, differences
from klagg.wire.findings import FindingKind

EXACT: Final = "EXACT"
EDGE_SHIFT: Final = "EDGE_SHIFT"
"""Fills of an aggTrade at the close, which the exchange counts in the next bar; the bars' `edge` proves it."""
LATE: Final = "LATE"
"""The exchange may not be done with the bar yet: to be looked at again."""
VERDICTS: Final = (
    EXACT,
    EDGE_SHIFT,
    FindingKind.EXCHANGE_GAP,
    FindingKind.LOCAL_GAP,
    LATE,
    FindingKind.UNEXPLAINED,
)
"""What a comparison of two bars can say: three verdicts of this module, and three that are findings too."""

ADOPTED: Final = "ADOPTED"
"""Of an EXACT bar in the tallies: it counts fills at a close where the exchange does, since its split was adopted."""

LATE_MS: Final = 60_000
"""For so long after its close an official row that lacks something is not held against anybody."""

PRICES: Final = ("open", "high", "low", "close")
_NOTHING: Final = dict.fromkeys(AMOUNTS, Decimal(0))
UNSEEN_ID: Final = -1
"""The id of an aggTrade that is only known by its later fills."""
RUN_MAX: Final = 30
"""Bars of a run over which it is looked for what came into the first one."""
_EXACTLY: Final = Context(prec=120)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One bar: what it is, and the evidence in a sentence (empty for EXACT)."""

    open_time: int
    kind: str
    evidence: str


class Comparison:
    """One symbol and interval over some time: `ours` and `theirs` by open time.

    `now_ms` is the exchange's time at which `theirs` was asked for (None: long after, as in dumps).
    """

    def __init__(
        self,
        interval: Interval,
        ours: Mapping[int, Kline],
        theirs: Mapping[int, Values],
        now_ms: int | None = None,
        minutes: Mapping[int, Kline] | None = None,
        refused: Mapping[int, str] | None = None,
    ) -> None:
        """`minutes` are ours in longer bars, as far as they may be needed (`puzzling`); `refused` says by open time why
        the exchange's row cannot be a kline, which is then none of `theirs`."""
        self._interval, self._ours, self._theirs, self._now_ms = interval, ours, theirs, now_ms
        self._minutes, self._refused = minutes or {}, refused or {}
        self._first_ms = min({*ours, *theirs}, default=0)
        self._lacking: set[int] = set()
        """Bars that may lack trades, and that differ by more than a shift: what left them is not known."""

    def verdicts(self, from_ms: int, to_ms: int) -> list[Verdict]:
        """Every bar with an open time in [from, to) that either side has, or that lies between such bars.

        A bar before `from` and one behind `to` help if they are there: a shift at the border is only proven with them.
        """
        known = [each for each in {*self._ours, *self._theirs} if from_ms <= each < to_ms]
        if not known:
            return []
        first, last = self._interval.bucket_of(min(known)), self._interval.bucket_of(max(known))
        before = self._interval.open_of(first - 1)
        if before in self._ours and before in self._theirs:
            first -= 1
        opens = [self._interval.open_of(bucket) for bucket in range(first, last + 1)]
        verdicts = {each: self._alone(each) for each in opens}
        for opening in opens:
            if verdicts[opening] is None:
                for each in self._run(opening):
                    if each.open_time in verdicts:
                        verdicts[each.open_time] = each
                    if each.kind == FindingKind.LOCAL_GAP and not self._ours[each.open_time].whole:
                        self._lacking.add(each.open_time)
        return [each for opening, each in verdicts.items() if each is not None and opening >= from_ms]

    def _alone(self, opening: int) -> Verdict | None:
        """The verdict on a bar that needs no neighbours; None for one that both sides have and that differs."""
        ours, theirs = self._ours.get(opening), self._theirs.get(opening)
        late = self._now_ms is not None and self._now_ms < self._interval.close_time(opening) + 1 + LATE_MS
        if ours is None:
            what = "neither side has" if theirs is None else "the exchange has, with {trades} trades, and we have not"
            return Verdict(opening, FindingKind.LOCAL_GAP, f"a bar that {what.format(**theirs or {})}")
        if theirs is None:
            row = f"has a row that cannot be ({self._refused[opening]})" if opening in self._refused else "has no row"
            what = f"the exchange {row}, we have {ours.trades} trades and the volume {ours.volume}"
            return Verdict(opening, LATE if late else FindingKind.EXCHANGE_GAP, what)
        wrong = differences(values_of(ours), theirs)
        if not wrong:
            return Verdict(opening, EXACT, "")
        said = "; ".join(f"{each.name} {each.ours} instead of {each.theirs}" for each in wrong)
        theirs_trades = theirs.get("trades")
        if late and (theirs_trades is None or ours.trades > int(theirs_trades)):
            return Verdict(opening, LATE, f"the exchange's row is not final yet: {said}")
        if theirs_trades == 0 and ours.trades > 0 and not theirs.get("volume"):
            return Verdict(
                opening, FindingKind.EXCHANGE_GAP, f"the exchange's row is flat, and trades were seen: {said}"
            )
        return None

    def _run(self, opening: int) -> list[Verdict]:
        """The bars from this one on that differ, as one: shifted over their edges, or not explained."""
        inside = self._inside(opening)
        if inside is not None:
            return [inside]
        possible = []
        for came, source in self._came_from_outside(opening):
            verdicts = self._walk(opening, came, source)
            if verdicts[0].kind in (EDGE_SHIFT, LATE):
                if self._ends_well(verdicts):
                    return verdicts
                possible.append(verdicts)  # something else may also explain the bar behind it
        if behind := self._behind_missing(opening):
            return behind
        if possible:
            return next(filter(self._goes_on_well, possible), possible[0])
        verdicts = self._walk(opening, dict(_NOTHING), [])
        if verdicts[0].kind == FindingKind.UNEXPLAINED and self._now_ms is not None and self._is_open_ended(opening):
            waits = "what came into it out of a healed bar is only known from the bars behind it"
            return [Verdict(opening, LATE, f"{waits}: {verdicts[0].evidence}")]
        return verdicts

    def _behind_missing(self, opening: int) -> list[Verdict]:
        """The run from this bar on, if what it is short by may have come out of a bar that is not here, or not
        complete: the first bar is a part of that LOCAL_GAP, those behind it are shifted as ever. Empty if not."""
        if not self._is_unknown(self._interval.open_time(opening - 1)):
            return []
        verdicts = self._walk(opening, dict(_NOTHING), [])
        if verdicts[0].kind in (EDGE_SHIFT, LATE) and self._ends_well(verdicts):
            return verdicts
        for came in self._shortages(opening):
            if not self._may_have_come(opening, came):
                continue
            verdicts = self._walk(opening, came, [], behind_missing=True)
            if verdicts[0].kind == EDGE_SHIFT and self._ends_well(verdicts):
                what = f"{_words(came)} more than ours may have come out of the bar before it, which is not here whole"
                return [Verdict(opening, FindingKind.LOCAL_GAP, what), *verdicts[1:]]
        return self._between_missing(opening)

    def _ends_well(self, verdicts: Sequence[Verdict]) -> bool:
        """Whether no bar that differs follows right behind these."""
        following = self._interval.close_time(verdicts[-1].open_time) + 1
        return following not in self._ours or self._alone(following) is not None

    def _goes_on_well(self, verdicts: Sequence[Verdict]) -> bool:
        """Whether the bar behind these, if it differs, is explained by itself: fills of one price that came in and went
        out may look like fewer that only came in, and then the next bar lacks what went out."""
        following = self._interval.close_time(verdicts[-1].open_time) + 1
        if self._ends_well(verdicts) or following not in self._theirs:
            return True
        return self._walk(following, dict(_NOTHING), [])[0].kind != FindingKind.UNEXPLAINED

    def _between_missing(self, opening: int) -> list[Verdict]:
        """The bars from this one on up to the next one that is not here, or to the end of what was compared: neither
        what came into them nor what left them is known, so each is held against the bounds of what may have. Empty if
        one does not keep them, or is right."""
        verdicts, at = [], opening
        before: list[Edge] | None = None
        while at in self._ours and at in self._theirs:
            edges, moved = edges_of(self._ours[at]), self._shifted(at, _NOTHING)
            most, least = _most(edges), None if before is None else _most(before)
            within = all(
                moved[name] <= most[name] and (least is None or -moved[name] <= least[name]) for name in AMOUNTS
            )
            if not within or self._odd_prices_behind_missing(at) or self._alone(at) is not None:
                return []
            what = "what came into it and what left it lies in bars before and behind it that are not here whole"
            verdicts.append(Verdict(at, FindingKind.LOCAL_GAP, f"{_words(moved)} more than the exchange's: {what}"))
            at, before = self._interval.close_time(at) + 1, edges
        return verdicts

    def _is_unknown(self, opening: int) -> bool:
        """Whether what left this bar for the next is not known: it is missing, or it lacks trades. Before the first
        bar of both sides none is missing."""
        if opening not in self._ours:
            return opening >= self._first_ms
        return opening in self._lacking

    def _shortages(self, opening: int) -> Iterator[dict[str, Decimal]]:
        """By how much this bar is short, then it and the next one together, and so on while both sides have them."""
        came, at = dict(_NOTHING), opening
        for _ in range(RUN_MAX):
            if at not in self._ours or at not in self._theirs:
                return
            came = {name: came[name] - value for name, value in self._shifted(at, _NOTHING).items()}
            yield came
            at = self._interval.close_time(at) + 1

    def _may_have_come(self, opening: int, came: Mapping[str, Decimal]) -> bool:
        """Whether these amounts may be fills at the beginning of the exchange's bar that ours does not have."""
        theirs = self._theirs[opening]
        low, high = (Decimal(theirs.get(name) or 0) for name in ("low", "high"))
        taken, taken_quote = came["taker_buy_volume"], came["taker_buy_quote_volume"]
        if came["trades"] < 1 or came["volume"] <= 0 or not 0 <= taken <= came["volume"]:
            return False
        rest, rest_quote = came["volume"] - taken, came["quote_volume"] - taken_quote
        return all(
            _EXACTLY.multiply(low, amount) <= paid <= _EXACTLY.multiply(high, amount)
            for amount, paid in ((taken, taken_quote), (rest, rest_quote))
        )

    def _odd_prices_behind_missing(self, opening: int) -> str:
        """Why the exchange's prices of a bar cannot be ours with unknown fills before them; empty if they can."""
        ours, theirs = values_of(self._ours[opening]), self._theirs[opening]
        mine = {name: Decimal(ours[name] or 0) for name in PRICES}
        other = {name: Decimal(theirs.get(name) or 0) for name in PRICES}
        if not ours["trades"]:
            return ""
        if other["high"] < mine["high"] or other["low"] > mine["low"] or other["close"] != mine["close"]:
            return "prices that no fills before it can give it"
        return ""

    def _is_open_ended(self, opening: int) -> bool:
        """Whether a run that begins behind a healed bar reaches up to the newest bar."""
        earlier, at = self._interval.open_time(opening - 1), opening
        if earlier not in self._ours or self._ours[earlier].source == OWN:
            return False
        for _ in range(RUN_MAX):
            if at not in self._ours or at not in self._theirs:
                return True
            if self._alone(at) is not None:
                return False
            at = self._interval.close_time(at) + 1
        return False

    def _walk(
        self, opening: int, came: dict[str, Decimal], source: list[Edge], *, behind_missing: bool = False
    ) -> list[Verdict]:
        """A run into whose first bar this came; `behind_missing`: out of a bar that is not here.

        What moved over each boundary is summed up from the first bar that differs; it must be the later fills of
        aggTrades of the bar before it, and nothing may be left behind the last one.
        """
        verdicts: list[Verdict] = []
        at = opening
        while True:
            gone = self._shifted(at, came)
            leaving = fills_of(gone, edges_of(self._ours[at])) if any(gone.values()) else []
            unknown = behind_missing and at == opening
            why = self._odd_prices_behind_missing(at) if unknown else self._odd_prices(at, source)
            if leaving is None:
                why = why or f"no aggTrade at its close can have taken {_words(gone)} with it"
            if why or leaving is None:
                if verdicts and not self._ours[at].whole:
                    return [*verdicts, self._unexplained(at, why)]
                return [self._unexplained(opening, why)]
            moved = [(came, source, "in from the bar before"), (gone, leaving, "out to the next bar")]
            verdicts.append(Verdict(at, EDGE_SHIFT, "; ".join(_proof(*each) for each in moved if each[1])))
            if not leaving:
                return verdicts
            at = self._interval.close_time(at) + 1
            following = self._alone(at) if at in self._ours or at in self._theirs else None
            if following is not None and following.kind == EXACT and self._ours[at].source != OWN:
                return verdicts
            if following is not None and following.kind == LATE:
                return [Verdict(opening, LATE, f"it may be an edge, and {following.evidence}")]
            if at not in self._ours or at not in self._theirs:
                return verdicts
            came, source = gone, leaving

    def _came_from_outside(self, opening: int) -> Iterator[tuple[dict[str, Decimal], list[Edge]]]:
        """What may have come into the first bar of a run, with its aggTrades: nothing, if the bar before it is there
        and right.

        Where the exchange's rows begin, behind a bar that holds official rows, and behind one that is not here or not
        complete, it may be all by which our bar is short; or all by which it is short together with the next ones, if
        the run ends behind these. The aggTrade at the close of such a bar may be lost with the others: then its price
        is the exchange's open.
        """
        earlier = self._interval.open_time(opening - 1)
        unknown = self._is_unknown(earlier)
        if not unknown and earlier in self._theirs and self._ours[earlier].source == OWN:
            return
        edges = edges_of(self._ours[earlier]) if earlier in self._ours else []
        if not unknown and earlier not in self._ours:
            return
        lost = unknown or self._ours[earlier].source != OWN
        if not (edges or lost):
            return
        for came in self._shortages(opening):
            source = fills_of(came, edges) if any(came.values()) else None
            if lost and not source:
                source = unseen(came, Decimal(self._theirs[opening].get("open") or 0))
            if source:
                yield came, source

    def _inside(self, opening: int) -> Verdict | None:
        """A longer bar with official minutes: whether what it differs by can be fills at closes of these minutes, and
        at its own two ends. Several boundaries add up, so the sums are held against their bounds."""
        more, fewer = healed_edges(self._minutes, opening, self._interval.close_time(opening))
        wrong = {each.name for each in differences(values_of(self._ours[opening]), self._theirs[opening])}
        if not (more or fewer) or not wrong <= set(AMOUNTS):
            return None
        earlier = self._ours.get(self._interval.open_time(opening - 1))
        more, fewer = more + edges_of(self._ours[opening]), fewer + (edges_of(earlier) if earlier else [])
        moved = self._shifted(opening, _NOTHING)
        if not _can_add_up(moved, more, fewer):
            return None
        where = "more than the exchange counts, beside minutes that its rows healed"
        return Verdict(opening, EDGE_SHIFT, _proof(moved, [*more, *fewer], where))

    def _shifted(self, opening: int, carried: Mapping[str, Decimal]) -> dict[str, Decimal]:
        """What leaves a bar for the next, given what came into it from the one before."""
        ours, theirs = values_of(self._ours[opening]), self._theirs[opening]
        return {name: Decimal(ours[name] or 0) + carried[name] - Decimal(theirs.get(name) or 0) for name in AMOUNTS}

    def _odd_prices(self, opening: int, came: Sequence[Edge]) -> str:
        """Why the exchange's prices of a bar cannot be ours with the fills that came in first; empty if they can.

        Fills that leave change no price: the first fill of their aggTrade, at the same price, stays.
        """
        ours, theirs = values_of(self._ours[opening]), self._theirs[opening]
        prices = [each.price for each in came]
        held = {name: Decimal(ours[name] or 0) for name in PRICES}
        possible = {name: {value} for name, value in held.items()}
        if prices:
            inside = [held["high"], held["low"]] if ours["trades"] else []
            possible = {
                "open": set(prices),
                "high": {max(prices + inside)},
                "low": {min(prices + inside)},
                "close": {held["close"]} if inside else set(prices),
            }
        for name, values in possible.items():
            if theirs.get(name) not in values:
                return f"{name} {held[name]} instead of {theirs.get(name)} is no matter of an edge"
        return ""

    def _unexplained(self, opening: int, why: str) -> Verdict:
        """A bar that no shift explains. One that is not proven may be right all the same, and only wait for the next
        trade of a quiet symbol; that it is not is known when it differs by more than a shift."""
        wrong = differences(values_of(self._ours[opening]), self._theirs[opening])
        said = "; ".join(f"{each.name} {each.ours} instead of {each.theirs}" for each in wrong)
        if not self._ours[opening].whole:
            return Verdict(opening, FindingKind.LOCAL_GAP, f"our bar may lack trades: {said}")
        return Verdict(opening, FindingKind.UNEXPLAINED, f"{said}; {why}")


def puzzling(interval: Interval, ours: Mapping[int, Kline], theirs: Mapping[int, Values]) -> list[int]:
    """The longer bars that differ and hold official rows: their minutes may tell why."""
    if interval is MINUTE:
        return []
    return [
        opening
        for opening, kline in ours.items()
        if kline.source != OWN and opening in theirs and differences(values_of(kline), theirs[opening])
    ]


def healed_edges(minutes: Mapping[int, Kline], from_ms: int, to_ms: int) -> tuple[list[Edge], list[Edge]]:
    """The edges inside [from, to] at closes with an own minute on one side only: where ours comes first its later fills
    are counted twice, where it comes second they are missing."""
    more: list[Edge] = []
    fewer: list[Edge] = []
    for opening in sorted(each for each in minutes if from_ms <= each and each + MINUTE_MS < to_ms):
        following = minutes.get(opening + MINUTE_MS)
        if following is not None and (minutes[opening].source == OWN) != (following.source == OWN):
            (more if minutes[opening].source == OWN else fewer).extend(edges_of(minutes[opening]))
    return more, fewer


def _can_add_up(moved: Mapping[str, Decimal], more: Sequence[Edge], fewer: Sequence[Edge]) -> bool:
    """Whether amounts lie between all later fills of `fewer`, as less than nothing, and all those of `more`."""
    low, high = _most(fewer), _most(more)
    return all(-low[name] <= moved[name] <= high[name] for name in AMOUNTS)


def _most(edges: Sequence[Edge]) -> dict[str, Decimal]:
    """No less than all amounts of the later fills of these aggTrades together."""
    takers = [each for each in edges if not each.maker]
    return {
        "trades": Decimal(sum(each.fills - 1 for each in edges)),
        "volume": sum((each.qty for each in edges), Decimal(0)),
        "quote_volume": sum((each.qty * each.price for each in edges), Decimal(0)),
        "taker_buy_volume": sum((each.qty for each in takers), Decimal(0)),
        "taker_buy_quote_volume": sum((each.qty * each.price for each in takers), Decimal(0)),
    }


def fills_of(moved: Mapping[str, Decimal], edges: Sequence[Edge]) -> list[Edge] | None:
    """The fewest of these aggTrades whose later fills can be exactly these amounts; None if none can.

    At least one fill of each, its first, stays. Of one aggTrade the price gives every amount; of several the amounts
    are held against their bounds.
    """
    if any(value < 0 for value in moved.values()):
        return None
    for count in range(1, len(edges) + 1):
        for some in combinations(edges, count):
            if _can_move(moved, some):
                return list(some)
    return None


def unseen(moved: Mapping[str, Decimal], price: Decimal) -> list[Edge]:
    """The one aggTrade, lost in a gap that the exchange's rows healed, whose later fills are these amounts: all of them
    at this price, and on one side. Empty if there can be none."""
    volume, quote = moved["volume"], moved["quote_volume"]
    taken = moved["taker_buy_volume"], moved["taker_buy_quote_volume"]
    if volume <= 0 or moved["trades"] < 1 or quote != _EXACTLY.multiply(price, volume):
        return []
    if taken not in ((0, 0), (volume, quote)):
        return []
    return [Edge(UNSEEN_ID, 0, int(moved["trades"]), 0, price, volume, taken[0] == 0)]


def _can_move(moved: Mapping[str, Decimal], some: Sequence[Edge]) -> bool:
    volume, quote, trades = moved["volume"], moved["quote_volume"], moved["trades"]
    if not len(some) <= trades <= sum(each.fills - 1 for each in some):
        return False
    if not 0 < volume < sum(each.qty for each in some):
        return False
    if not _between(volume, quote, some):
        return False
    takers = [each for each in some if not each.maker]
    taken, taken_quote = moved["taker_buy_volume"], moved["taker_buy_quote_volume"]
    if not takers:
        return taken == taken_quote == 0
    if len(takers) == len(some):
        return taken == volume and taken_quote == quote
    return 0 < taken < sum(each.qty for each in takers) and _between(taken, taken_quote, takers)


def _between(amount: Decimal, paid: Decimal, some: Sequence[Edge]) -> bool:
    low, high = (_EXACTLY.multiply(limit(each.price for each in some), amount) for limit in (min, max))
    return low <= paid <= high


def _proof(moved: Mapping[str, Decimal], some: Sequence[Edge], where: str) -> str:
    names = ", ".join("that was never seen" if each.id == UNSEEN_ID else str(each.id) for each in some)
    return f"{_words(moved)} {where}: later fills of aggTrade {names}"


def _words(moved: Mapping[str, Decimal]) -> str:
    return f"{moved['trades']} fills of {moved['volume']} for {moved['quote_volume']}"
