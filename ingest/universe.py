"""What the exchange lists, from answer to answer: an answer that cannot be right, and names that vanish. Pure.

The exchange says of a delisted symbol for weeks that it is over. A name that vanishes without that would never end:
its bars would go on empty. So it gets the entry that the exchange does not send, once answers have lacked it for long
enough.
This knows what the process has seen itself: a name that vanished while no clock ran is not missed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from klagg.contract import Listing
from klagg.errors import ExchangeUnavailable
from klagg.exchange.payloads import SUBSCRIBABLE

VANISHED: Final = "CLOSE"
"""The exchange's status of a symbol whose trading is over; vanished ones get it."""

CONFIRM_MS: Final = 30_000
"""A name has vanished when an answer lacks it this long after the first one in a row that did."""


class Universe:
    """The names of the last believed answer, the listings chosen from it, and the ends of those that vanished.

    `gone` holds the ends by name: they are written again with every listing, as all symbols are.
    """

    def __init__(self) -> None:
        self._names: frozenset[str] = frozenset()
        self._known: dict[str, Listing] = {}
        self._absent_ms: dict[str, float] = {}
        self.gone: dict[str, Listing] = {}

    def check(self, names: frozenset[str]) -> None:
        """ExchangeUnavailable if an answer with these names lacks most of those before: it is no answer to go by."""
        lacking = self._names - names
        if 2 * len(lacking) > len(self._names):
            raise ExchangeUnavailable(
                f"the exchange's answer to /exchangeInfo lacks {len(lacking)} of the {len(self._names)} symbols listed "
                f"before and is not believed ({', '.join(sorted(lacking)[:5])}, …); if it is right, restart klagg-clock"
            )

    def expected(self, symbols: Sequence[str], names: frozenset[str]) -> list[str]:
        """Those of the `symbols` named by the configuration that an answer must list: not those that it once did."""
        return [each for each in symbols if each in names or not (each in self._known or each in self.gone)]

    def take(self, listings: Sequence[Listing], names: frozenset[str], now_ms: float) -> list[str]:
        """Take in, at `now_ms` (steady), a believed answer with these `names` and the `listings` chosen from it; those
        that vanished with it."""
        missing = {name: each for name, each in self._known.items() if name not in names}
        self._absent_ms = {name: self._absent_ms.get(name, now_ms) for name in missing}
        over = [name for name, each in missing.items() if each.status not in SUBSCRIBABLE]
        ended = [name for name, since in self._absent_ms.items() if since + CONFIRM_MS <= now_ms and name not in over]
        for name in [*over, *ended]:
            del self._known[name], self._absent_ms[name]
        self._known |= {each.symbol: each for each in listings}
        self.gone = {name: each for name, each in self.gone.items() if name not in names}
        self.gone |= {name: replace(missing[name], status=VANISHED) for name in ended}
        self._names = names
        return ended

    @property
    def doubtful(self) -> bool:
        """Whether the last answer lacked names about which a later one decides."""
        return bool(self._absent_ms)
