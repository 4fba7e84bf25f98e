"""What the exchange lists, from answer to answer: an answer that cannot be right, and names that vanish. Pure.

The listings are those of `GET /fapi/v1/exchangeInfo` (Binance USDⓈ-M docs, "Exchange Information"). A delisted symbol
stays in the answers, with a status that ends it. A name that vanishes without such a status would never end: its bars
would go on empty. So it gets the entry that the exchange does not send, once answers have lacked it for long enough.
The universe knows only what this process received: a name that vanished while no clock ran is not missed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from ingest.timings import DEFAULT_TIMINGS, Timings
from klagg import settings
from klagg.binance.contracts import CONTRACT_TYPES, ENDED, PENDING, STATUSES, UNSTATED, is_chosen, is_halted, is_open
from klagg.binance.payloads import (
    Contract,
    ContractNews,
    Selection,
    Ticker,
    contracts_of,
    left_out,
    not_listed,
    nothing_chosen,
)
from klagg.errors import ExchangeUnavailable
from klagg.wire.entries import Listing

VANISHED: Final = "CLOSE"
"""The exchange's status of a symbol whose trading is over; vanished ones get it."""

STATUS: Final = "status"
CONTRACT_TYPE: Final = "contract_type"
"""Kinds of words in exchangeInfo that may be new."""


@dataclass(frozen=True, slots=True)
class NewWord:
    """A word of exchangeInfo that nobody has seen: its kind (STATUS or CONTRACT_TYPE), and a symbol that has it.
    `times` counts the symbols that did not have it in the answer before."""

    kind: str
    word: str
    symbol: str
    times: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What an answer of exchangeInfo holds: of the configured choice, the names that have vanished by now, and all
    words in it that nobody has seen."""

    chosen: Selection
    vanished: list[str]
    words: list[NewWord]


class Universe:
    """The names of the last believed answer, the listings chosen from it, and the ends of those that vanished.

    `gone` holds the ends by name: they are written again with every listing, as all symbols are. What was chosen once
    stays chosen, whatever its contract type becomes. `unmet` says in sentences what the configuration names and the
    last answer does not have.
    """

    def __init__(self, timings: Timings = DEFAULT_TIMINGS) -> None:
        self._confirm_ms = timings.confirm_ms
        self._names: frozenset[str] = frozenset()
        self._contracts: Mapping[str, Contract] = {}
        self._known: dict[str, Listing] = {}
        self._absent_ms: dict[str, float] = {}
        self._opened: dict[str, int] = {}
        """The generations of the known symbols that have opened."""
        self.gone: dict[str, Listing] = {}
        self.unmet: list[str] = []

    def check(self, names: frozenset[str]) -> None:
        """ExchangeUnavailable if an answer with these names lacks most of the names before: it cannot be right."""
        lacking = self._names - names
        if 2 * len(lacking) > len(self._names):
            raise ExchangeUnavailable(
                f"the exchange's answer to /exchangeInfo lacks {len(lacking)} of the {len(self._names)} symbols listed "
                f"before and is not believed ({', '.join(sorted(lacking)[:5])}, …); if it is right, restart klagg-clock"
            )

    def update(self, listings: Sequence[Listing], names: frozenset[str], now_ms: float) -> list[str]:
        """Update with an answer that was checked, at `now_ms` (local): its `names`, and the `listings` chosen from it.

        The result are the names that have vanished by now.
        """
        missing = {name: each for name, each in self._known.items() if name not in names}
        self._absent_ms = {name: self._absent_ms.get(name, now_ms) for name in missing}
        over = [name for name, each in missing.items() if each.status in ENDED]
        ended = [
            name for name, since in self._absent_ms.items() if since + self._confirm_ms <= now_ms and name not in over
        ]
        for name in [*over, *ended]:
            del self._known[name], self._absent_ms[name]
        self._known |= {each.symbol: each for each in listings}
        self._opened |= {each.symbol: each.generation for each in listings if is_open(each.status)}
        self._opened = {name: generation for name, generation in self._opened.items() if name in self._known}
        self.gone = {name: each for name, each in self.gone.items() if name not in names}
        self.gone |= {name: replace(missing[name], status=VANISHED) for name in ended}
        self._names = names
        return ended

    def read(self, info: Any, exchange: settings.Exchange, now_ms: float) -> Answer:
        """Update with a decoded answer of exchangeInfo at `now_ms` (local).

        ExchangeUnavailable if the answer cannot be right. A choice that it does not have is `unmet`.
        """
        listed = contracts_of(info)
        self.check(listed.names)
        chosen = sorted(
            name for name, each in listed.by_name.items() if name in self._known or _chooses(exchange, each)
        )
        words = self._new_words(listed.by_name, chosen, exchange)
        self._contracts = listed.by_name
        listings = [listed.by_name[name].listing for name in chosen]
        vanished = self.update(listings, listed.names, now_ms)
        self.unmet = self._unmet(exchange)
        return Answer(Selection(listings, listed.malformed), vanished, words)

    def _new_words(
        self, contracts: Mapping[str, Contract], chosen: Iterable[str], exchange: settings.Exchange
    ) -> list[NewWord]:
        """The words that nobody has seen: statuses of the chosen symbols, and contract types of all that have a chosen
        quote asset."""
        found: dict[tuple[str, str], NewWord] = {}

        def note(kind: str, word: str, name: str, *, fresh: bool) -> None:
            known = found.get((kind, word), NewWord(kind, word, name, 0))
            found[kind, word] = replace(known, times=known.times + fresh)

        for name in chosen:
            status, before = contracts[name].listing.status, self._known.get(name)
            if status not in STATUSES:
                note(STATUS, status, name, fresh=before is None or before.status != status)
        for name, each in contracts.items():
            before_type = self._contracts[name].contract_type if name in self._contracts else None
            pending = each.contract_type == UNSTATED and each.listing.status in PENDING
            if each.contract_type not in CONTRACT_TYPES and not pending and each.is_quoted_in(exchange.quote_assets):
                note(CONTRACT_TYPE, each.contract_type, name, fresh=each.contract_type != before_type)
        return list(found.values())

    def _unmet(self, exchange: settings.Exchange) -> list[str]:
        if not exchange.symbols:
            if self._known or self.gone:
                return []
            return [nothing_chosen(exchange.quote_assets, exchange.contract_types)]
        lacking = [name for name in exchange.symbols if name not in self._known and name not in self.gone]
        return [left_out(name) if name in self._contracts else not_listed(name) for name in lacking]

    @property
    def names(self) -> frozenset[str]:
        """All names of the last answer, chosen or not."""
        return self._names

    @property
    def listed(self) -> list[str]:
        """The chosen names of the last answer, also those whose rows in it cannot be used; ascending."""
        return sorted(name for name in self._known if name in self._names)

    @property
    def known(self) -> Mapping[str, Listing]:
        """The chosen listings that are not over for good. One that only the latest answers lack is still among them."""
        return self._known

    @property
    def carried(self) -> list[str]:
        """The symbols whose trades are worth a subscription."""
        return [name for name, each in self._known.items() if self._is_carried(each)]

    def _is_carried(self, listing: Listing) -> bool:
        """Whether the contract has opened and not ended: one that is pending again has opened all the same."""
        opened = self._opened.get(listing.symbol) == listing.generation
        return is_open(listing.status) or (opened and listing.status in PENDING)

    @property
    def halted(self) -> dict[str, str]:
        """The statuses of the chosen symbols that are halted, or have a status that nobody has seen."""
        return {
            name: each.status
            for name, each in self._known.items()
            if is_halted(each.status) or (each.status in PENDING and self._is_carried(each))
        }

    @property
    def pending(self) -> list[str]:
        """The chosen symbols that have not opened."""
        return [name for name, each in self._known.items() if each.status in PENDING and not self._is_carried(each)]

    @property
    def doubtful(self) -> bool:
        """Whether the last answer lacked names about which a later answer decides."""
        return bool(self._absent_ms)

    @property
    def waits(self) -> str:
        """Why there is less to carry than is chosen, as a sentence; "" if there is not."""
        if self.unmet:
            return "; ".join(self.unmet[:5]) + ("; …" if len(self.unmet) > 5 else "")
        if self.carried:
            return ""
        shown = ", ".join(f"{name} is {each.status}" for name, each in sorted(self._known.items())[:5])
        return f"none of the chosen symbols trades ({shown or 'all are gone'})"

    def is_missed(self, symbol: str, exchange: settings.Exchange) -> bool:
        """Whether a symbol is not carried by its listing, and could be one of the choice: a trade of it is a doubt."""
        if symbol in self._known:
            return not self._is_carried(self._known[symbol])
        return symbol not in self._contracts and fits(symbol, exchange)


def _chooses(exchange: settings.Exchange, contract: Contract) -> bool:
    """Whether the configuration chooses the contract."""
    named = not exchange.symbols or contract.listing.symbol in exchange.symbols
    return named and contract.fits(exchange.quote_assets, exchange.contract_types)


def fits(symbol: str, exchange: settings.Exchange) -> bool:
    """Whether the name alone could be one of the configured choice."""
    return symbol in exchange.symbols if exchange.symbols else symbol.endswith(exchange.quote_assets)


@dataclass(slots=True)
class _Doubt:
    since_s: float
    renewed_s: float
    news: ContractNews | None = None
    traded_s: float | None = None
    """Since when tickers or trades show that the symbol is traded; None if they do not."""
    reported: bool = False


class Doubts:
    """Names about which the exchange published something that its last exchangeInfo does not confirm, so that it must
    be requested again: exchangeInfo may come from a cache.

    Times are local seconds.
    """

    def __init__(self, timings: Timings = DEFAULT_TIMINGS) -> None:
        self._timings = timings
        self._doubts: dict[str, _Doubt] = {}
        self._volumes: dict[str, float] = {}
        """The volumes of the tickers of symbols that have not opened; one without a ticker has none."""
        self._requested_s = 0.0
        self._pause_s = self._timings.request_least_s

    def _doubt(self, name: str, now_s: float) -> _Doubt:
        """The doubt about a name, renewed. A new one is not held up by the pauses of older ones."""
        doubt = self._doubts.get(name)
        if doubt is None:
            doubt = self._doubts[name] = _Doubt(now_s, now_s)
            self._pause_s = self._timings.request_least_s
        doubt.renewed_s = now_s
        return doubt

    def news(self, news: ContractNews, now_s: float) -> None:
        """The exchange published that a contract was listed, delisted or changed."""
        doubt = self._doubt(news.symbol, now_s)
        doubt.news, doubt.reported = news, False

    def traded(self, symbols: Iterable[str], universe: Universe, exchange: settings.Exchange, now_s: float) -> None:
        """These symbols were traded, as a ticker that moved or a trade shows. One that fits the choice, and that is not
        carried by its listing, is a doubt, whatever its status."""
        for symbol in symbols:
            if not universe.is_missed(symbol, exchange):
                continue
            doubt = self._doubt(symbol, now_s)
            doubt.traded_s = doubt.traded_s if doubt.traded_s is not None else now_s

    def opened(self, tickers: Iterable[Ticker], universe: Universe, exchange: settings.Exchange, now_s: float) -> None:
        """These tickers came, moved or not. A symbol that has not opened has no volume: where it has, it was traded."""
        pending = set(universe.pending)
        self._volumes = {name: volume for name, volume in self._volumes.items() if name in pending}
        grown = [each for each in tickers if each.symbol in pending and each.volume > self._volumes.get(each.symbol, 0)]
        self._volumes.update((each.symbol, each.volume) for each in grown)
        self.traded([each.symbol for each in grown], universe, exchange, now_s)

    def finer(self, symbol: str, now_s: float) -> None:
        """A payload has more decimals than its listing: perhaps the listing has changed."""
        self._doubt(symbol, now_s)

    def due(self, now_s: float) -> bool:
        """Whether to request exchangeInfo now. Between two requests is a pause that grows while answers settle
        nothing."""
        self._doubts = {
            name: each for name, each in self._doubts.items() if now_s - each.renewed_s < self._timings.forgotten_s
        }
        return bool(self._doubts) and now_s - self._requested_s >= self._pause_s

    def requested(self, now_s: float) -> None:
        """exchangeInfo is requested now, for whatever reason."""
        self._requested_s = now_s
        least_s, most_s = self._timings.request_least_s, self._timings.request_most_s
        self._pause_s = min(most_s, 2 * self._pause_s) if self._doubts else least_s

    def answered(self, universe: Universe, exchange: settings.Exchange) -> None:
        """The universe was updated with an answer: what the answer confirms is no doubt any more."""
        self._doubts = {
            name: each for name, each in self._doubts.items() if not _settled(name, each, universe, exchange)
        }
        if not self._doubts:
            self._pause_s = self._timings.request_least_s

    def overdue(self, now_s: float) -> list[str]:
        """The names that have just become an alarm: each once, for as long as its doubt lasts."""
        late = [
            name
            for name, each in self._doubts.items()
            if not each.reported and now_s - each.since_s >= self._timings.overdue_s
        ]
        for name in late:
            self._doubts[name].reported = True
        return late

    @property
    def reported(self) -> list[str]:
        """The names that became an alarm, and whose doubt lasts."""
        return [name for name, each in self._doubts.items() if each.reported]

    def with_news(self, listings: Iterable[Listing]) -> list[Listing]:
        """`listings`, changed by the newest news where an answer does not confirm them yet."""
        return [_with_news(each, self._doubts.get(each.symbol)) for each in listings]

    def wanted(self, universe: Universe, now_s: float) -> list[str]:
        """Symbols to carry though exchangeInfo does not say so: the exchange published that they trade, or it lists
        them and they are traded, for `insist_s` by now, whatever their status."""
        return [
            name
            for name, each in self._doubts.items()
            if (each.news and is_open(each.news.status))
            or (
                name in universe.names and each.traded_s is not None and now_s - each.traded_s >= self._timings.insist_s
            )
        ]


def _with_news(listing: Listing, doubt: _Doubt | None) -> Listing:
    if doubt is None or doubt.news is None or doubt.reported:
        return listing
    news = doubt.news
    return replace(listing, status=news.status, generation=news.generation, delivery=news.delivery)


def _settled(name: str, doubt: _Doubt, universe: Universe, exchange: settings.Exchange) -> bool:
    if doubt.traded_s is not None and universe.is_missed(name, exchange):
        return False
    news = doubt.news
    if name not in universe.names:
        return news is not None and news.status in ENDED
    listing = universe.known.get(name)
    if news is None or listing is None:
        return True
    return (listing.status, listing.generation, listing.delivery) == (news.status, news.generation, news.delivery)


def chosen_news(news: ContractNews, universe: Universe, exchange: settings.Exchange) -> bool:
    """Whether the news are about a contract that is chosen, or would be."""
    if news.symbol in universe.known:
        return True
    of_type = is_chosen(news.symbol, news.contract_type, news.delivery, exchange.contract_types)
    return of_type and fits(news.symbol, exchange)


def finer_than_listed(
    latest: Mapping[str, tuple[int, str, str]], known: Mapping[str, Listing], symbols: Collection[str]
) -> list[str]:
    """Those of `symbols` whose last price or quantity has more decimals (but zeros) than their listing says."""
    found = []
    for symbol in symbols:
        listing = known.get(symbol)
        if listing is None or symbol not in latest:
            continue
        _, price, qty = latest[symbol]
        if _decimals(price) > listing.price_scale or _decimals(qty) > listing.qty_scale:
            found.append(symbol)
    return found


def _decimals(text: str) -> int:
    return len(text.partition(".")[2].rstrip("0"))
