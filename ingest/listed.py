"""Which symbols a line carries: requests exchangeInfo at the start, on a schedule, and whenever there are doubts."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Iterable
from time import monotonic

from ingest.timings import DEFAULT_TIMINGS, Timings
from ingest.universe import CONTRACT_TYPE, STATUS, Doubts, NewWord, Universe, chosen_news
from klagg.backoff import Backoff
from klagg.binance.payloads import ContractNews, Ticker
from klagg.binance.rest_client import ExchangeRest
from klagg.clock import steady_ms
from klagg.errors import ExchangeRefused, ExchangeUnavailable
from klagg.process.alarms import AlarmKind
from klagg.process.service import AsyncContext
from klagg.process.unknown_words import UnknownWords


def note_words(words: UnknownWords, found: Iterable[NewWord]) -> None:
    """Tell of all new words of an answer. Over a status stands the alarm of its halt."""
    types = []
    for each in found:
        where = f"{each.symbol} has it, and stays as it is"
        words.note(each.kind, each.word, where, each.times, alarm=each.kind != STATUS, stands_ms=0.0)
        if each.kind == CONTRACT_TYPE:
            types.append(each.word)
    words.keep(CONTRACT_TYPE, types)


class Listed:
    """The universe of one line. `follow` is called with the symbols to carry, whenever they change."""

    def __init__(self, context: AsyncContext, rest: ExchangeRest, timings: Timings = DEFAULT_TIMINGS) -> None:
        self._context, self._rest, self._timings = context, rest, timings
        self._choice = context.settings.exchange
        self._doubts = Doubts(timings)
        self._carried: frozenset[str] = frozenset()
        self._words = UnknownWords(context.stats, context.log, STATUS, CONTRACT_TYPE)
        self.universe = Universe(timings)
        self.follow: Callable[[Collection[str]], None] = lambda _: None

    async def start(self) -> list[str] | None:
        """The symbols at the start, which may be none as long as nothing that is chosen trades; None if the process is
        to stop meanwhile.

        ExchangeUnavailable or ExchangeRefused after `start_tries`.
        """
        backoff = Backoff(self._timings.start_first_s, self._timings.start_cap_s, random.random)
        while True:
            try:
                await self._request()
            except (ExchangeUnavailable, ExchangeRefused) as failure:
                delay_s = backoff.next_s()
                if backoff.tries >= self._timings.start_tries:
                    raise
                if isinstance(failure, ExchangeRefused):
                    delay_s = min(self._timings.start_cap_s, max(delay_s, failure.retry_after_s))
                self._context.log.warning("no symbols yet, next try in %.1f s: %s", delay_s, failure)
                if not await self._context.sleep(delay_s):
                    return None
                continue
            self._carried = frozenset(self.universe.carried)
            return sorted(self._carried)

    def news(self, news: ContractNews) -> None:
        """The exchange published news of a contract: a new symbol is carried at once, and exchangeInfo is requested
        soon."""
        if chosen_news(news, self.universe, self._choice):
            self._context.log.info("the exchange says that %s is %s now", news.symbol, news.status)
            self._doubts.news(news, monotonic())
            self._follow()

    def ticked(self, tickers: Iterable[Ticker], moved: Iterable[Ticker]) -> None:
        """Tickers came, and these of them `moved`: those that are not carried, and fit the choice, are doubts."""
        now_s = monotonic()
        self._doubts.traded([each.symbol for each in moved], self.universe, self._choice, now_s)
        self._doubts.opened(tickers, self.universe, self._choice, now_s)

    def traded(self, symbol: str) -> None:
        """A trade came of a symbol that was not carried: a doubt if it fits the choice and is listed."""
        if symbol in self.universe.names:
            self._doubts.traded([symbol], self.universe, self._choice, monotonic())

    def finer(self, symbol: str) -> None:
        """A payload of this symbol has more decimals than its listing: a doubt."""
        self._doubts.finer(symbol, monotonic())

    async def run(self) -> None:
        """Request exchangeInfo when it is due, until cancelled."""
        listings_s = self._context.settings.clock.listings_s
        due_s = monotonic() + self._next_look_s
        while True:
            await asyncio.sleep(self._timings.look_s)
            now_s = monotonic()
            self._raise_overdue(now_s)
            if now_s < due_s and not self._doubts.due(now_s):
                self._follow()
                continue
            self._context.log.debug(
                "exchangeInfo is requested: %s", "it is time" if now_s >= due_s else "there are doubts"
            )
            try:
                await self._request()
            except (ExchangeUnavailable, ExchangeRefused) as failure:
                due_s = now_s + min(listings_s, max(self._timings.start_cap_s, getattr(failure, "retry_after_s", 0.0)))
                self._context.log.warning("the symbols stay as they are: %s", failure)
            else:
                due_s = now_s + self._next_look_s
            self._follow()

    @property
    def _next_look_s(self) -> float:
        """How long the last answer stands without doubts."""
        most_s = float(self._context.settings.clock.listings_s)
        if self.universe.doubtful:
            most_s = min(most_s, self._timings.confirm_s)
        return min(most_s, self._timings.waiting_s) if self.universe.waits else most_s

    def _raise_overdue(self, now_s: float) -> None:
        alarms = self._context.stats.alarms
        for name in self._doubts.overdue(now_s):
            sentence = (
                f"{name} is traded or was announced, and exchangeInfo does not confirm it (exchange.symbols, "
                "exchange.quote_assets and exchange.contract_types say which symbols are wanted)"
            )
            alarms.raise_(AlarmKind.NOT_CARRIED, sentence, name)
        alarms.keep(AlarmKind.NOT_CARRIED, self._doubts.reported)

    def _raise_waiting(self) -> None:
        if not (why := self.universe.waits):
            self._context.stats.alarms.clear(AlarmKind.WAITING)
            return
        sentence = f"{why}: this line waits for what is not there, and carries it when it comes"
        self._context.stats.alarms.raise_(AlarmKind.WAITING, sentence)

    async def _request(self) -> None:
        self._doubts.requested(monotonic())
        answer = self.universe.read(await self._rest.exchange_info(), self._choice, steady_ms())
        self._doubts.answered(self.universe, self._choice)
        self._context.stats.add("listings")
        self._raise_waiting()
        note_words(self._words, answer.words)
        for name in answer.vanished:
            self._context.log.warning("%s is no longer listed", name)
        for problem in answer.chosen.malformed:
            self._context.stats.add("malformed_listings")
            self._context.log.warning("left out: %s", problem)

    def _follow(self) -> None:
        carried = frozenset(self.universe.carried).union(self._doubts.wanted(self.universe, monotonic()))
        if carried == self._carried:
            return
        for verb, names in (("carries", carried - self._carried), ("no longer carries", self._carried - carried)):
            if names:
                shown = ", ".join(sorted(names)[:10]) + (", …" if len(names) > 10 else "")
                self._context.log.info("line %s %s %s", self._context.arguments.line, verb, shown)
        self._carried = carried
        self.follow(sorted(carried))
