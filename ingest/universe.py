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
from klagg.binance.payloads import SUBSCRIBABLE, ContractNews, Selection, Ticker, listings_of, names_of, subscribable
from klagg.errors import ExchangeUnavailable
from klagg.wire.entries import Listing

VANISHED: Final = "CLOSE"
"""The exchange's status of a symbol whose trading is over; vanished ones get it."""


class Universe:
    """The names of the last believed answer, the listings chosen from it, and the ends of those that vanished.

    `gone` holds the ends by name: they are written again with every listing, as all symbols are.
    """

    def __init__(self, timings: Timings = DEFAULT_TIMINGS) -> None:
        self._confirm_ms = timings.confirm_ms
        self._names: frozenset[str] = frozenset()
        self._known: dict[str, Listing] = {}
        self._absent_ms: dict[str, float] = {}
        self.gone: dict[str, Listing] = {}

    def check(self, names: frozenset[str]) -> None:
        """ExchangeUnavailable if an answer with these names lacks most of the names before: it cannot be right."""
        lacking = self._names - names
        if 2 * len(lacking) > len(self._names):
            raise ExchangeUnavailable(
                f"the exchange's answer to /exchangeInfo lacks {len(lacking)} of the {len(self._names)} symbols listed "
                f"before and is not believed ({', '.join(sorted(lacking)[:5])}, …); if it is right, restart klagg-clock"
            )

    def expected(self, symbols: Sequence[str], names: frozenset[str]) -> list[str]:
        """The `symbols` named by the configuration that an answer must list: all but those that were listed once."""
        return [each for each in symbols if each in names or not (each in self._known or each in self.gone)]

    def update(self, listings: Sequence[Listing], names: frozenset[str], now_ms: float) -> list[str]:
        """Update with an answer that was checked, at `now_ms` (local): its `names`, and the `listings` chosen from it.

        The result are the names that have vanished by now.
        """
        missing = {name: each for name, each in self._known.items() if name not in names}
        self._absent_ms = {name: self._absent_ms.get(name, now_ms) for name in missing}
        over = [name for name, each in missing.items() if each.status not in SUBSCRIBABLE]
        ended = [
            name for name, since in self._absent_ms.items() if since + self._confirm_ms <= now_ms and name not in over
        ]
        for name in [*over, *ended]:
            del self._known[name], self._absent_ms[name]
        self._known |= {each.symbol: each for each in listings}
        self.gone = {name: each for name, each in self.gone.items() if name not in names}
        self.gone |= {name: replace(missing[name], status=VANISHED) for name in ended}
        self._names = names
        return ended

    def read(self, info: Any, exchange: settings.Exchange, now_ms: float) -> tuple[Selection, list[str]]:
        """Update with a decoded answer of exchangeInfo at `now_ms` (local).

        The result: what the answer holds of the configured choice, and the names that have vanished by now.
        ExchangeUnavailable if the answer cannot be right; ConfigError if it never fits the configuration.
        """
        names = names_of(info)
        self.check(names)
        expected = self.expected(exchange.symbols, names)
        if exchange.symbols and not expected:
            chosen = Selection([], [])
        else:
            chosen = listings_of(info, exchange.quote_assets, exchange.contract_types, expected)
        return chosen, self.update(chosen.listings, names, now_ms)

    @property
    def names(self) -> frozenset[str]:
        """All names of the last answer, chosen or not."""
        return self._names

    @property
    def known(self) -> Mapping[str, Listing]:
        """The chosen listings that are not over for good. One that only the latest answers lack is still among them."""
        return self._known

    @property
    def carried(self) -> list[str]:
        """The symbols whose trades are worth a subscription."""
        return subscribable(self._known.values())

    @property
    def doubtful(self) -> bool:
        """Whether the last answer lacked names about which a later answer decides."""
        return bool(self._absent_ms)


def fits(symbol: str, exchange: settings.Exchange) -> bool:
    """Whether the name alone could be one of the configured choice."""
    return symbol in exchange.symbols if exchange.symbols else symbol.endswith(exchange.quote_assets)


@dataclass(slots=True)
class _Doubt:
    since_s: float
    renewed_s: float
    news: ContractNews | None
    reported: bool = False


class Doubts:
    """Names about which the exchange published something that its last exchangeInfo does not confirm, so that it must
    be requested again: exchangeInfo may come from a cache.

    Times are local seconds.
    """

    def __init__(self, timings: Timings = DEFAULT_TIMINGS) -> None:
        self._timings = timings
        self._doubts: dict[str, _Doubt] = {}
        self._requested_s = 0.0
        self._pause_s = self._timings.request_least_s

    def news(self, news: ContractNews, now_s: float) -> None:
        """The exchange published that a contract was listed, delisted or changed."""
        before = self._doubts.get(news.symbol)
        self._doubts[news.symbol] = _Doubt(before.since_s if before else now_s, now_s, news)

    def traded(self, tickers: Iterable[Ticker], universe: Universe, exchange: settings.Exchange, now_s: float) -> None:
        """These tickers moved. One that fits the choice, and that no answer lists, is a doubt."""
        for each in tickers:
            if each.symbol in universe.names or not fits(each.symbol, exchange):
                continue
            doubt = self._doubts.setdefault(each.symbol, _Doubt(now_s, now_s, None))
            doubt.renewed_s = now_s

    def finer(self, symbol: str, now_s: float) -> None:
        """A payload has more decimals than its listing: perhaps the listing has changed."""
        self._doubts.setdefault(symbol, _Doubt(now_s, now_s, None)).renewed_s = now_s

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

    def answered(self, universe: Universe) -> None:
        """The universe was updated with an answer: what the answer confirms is no doubt any more."""
        self._doubts = {name: each for name, each in self._doubts.items() if not _settled(name, each.news, universe)}
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

    @property
    def wanted(self) -> list[str]:
        """Symbols that the exchange published as listed, though no answer lists them yet."""
        return [name for name, each in self._doubts.items() if each.news and each.news.status in SUBSCRIBABLE]


def _with_news(listing: Listing, doubt: _Doubt | None) -> Listing:
    if doubt is None or doubt.news is None or doubt.reported:
        return listing
    news = doubt.news
    return replace(listing, status=news.status, generation=news.generation, delivery=news.delivery)


def _settled(name: str, news: ContractNews | None, universe: Universe) -> bool:
    if name not in universe.names:
        return news is not None and news.status not in SUBSCRIBABLE
    listing = universe.known.get(name)
    if news is None or listing is None:
        return True
    return (listing.status, listing.generation, listing.delivery) == (news.status, news.generation, news.delivery)


def chosen_news(news: ContractNews, universe: Universe, exchange: settings.Exchange) -> bool:
    """Whether the news are about a contract that is chosen, or would be."""
    return news.symbol in universe.known or (
        news.contract_type in exchange.contract_types and fits(news.symbol, exchange)
    )


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
