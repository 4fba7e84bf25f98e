"""What the words that exchangeInfo and `!contractInfo` have for a contract mean: its status and its type. Pure.

A word decides only what is said of it here. New words come without notice, so a word that is not named here ends
nothing, drops nothing and begins nothing: whatever it is about goes on as it was, and people are told of the word.

The words are those of the Binance USDⓈ-M docs, "Common Definition" (the page itself was not read; public clients that
name it as their source list exactly these). What the docs do not say is what a status does to a symbol's trades: that
SETTLING is a delisted perpetual was seen.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, Final

TRADING: Final = "TRADING"

PENDING: Final = frozenset({"PENDING_TRADING"})
"""Statuses of a contract that has not opened."""
ENDING: Final = frozenset({"PRE_DELIVERING", "PRE_SETTLE"})
"""Statuses under which a contract trades until its delivery time."""
ENDED: Final = frozenset({"DELIVERING", "DELIVERED", "SETTLING", "CLOSE"})
"""Statuses of a contract whose trading is over."""
HALTED: Final = frozenset({"TRADING_HALT", "TRADING_CANCEL_ONLY"})
"""Statuses of a contract that trades again later. Any status that is not named here at all is treated likewise."""
STATUSES: Final = frozenset({TRADING}) | PENDING | ENDING | ENDED | HALTED

PERPETUAL: Final = "PERPETUAL"
CONTRACT_TYPES: Final = frozenset(
    {
        PERPETUAL,
        "TRADIFI_PERPETUAL",
        "CURRENT_MONTH",
        "NEXT_MONTH",
        "CURRENT_QUARTER",
        "NEXT_QUARTER",
        "PERPETUAL_DELIVERING",
        "CURRENT_QUARTER_DELIVERING",
        "NEXT_QUARTER_DELIVERING",
    }
)
"""The contract types by name; `exchange.contract_types` chooses among them."""
UNSTATED: Final = ""
"""The type of a contract that has not opened (seen: BTCSTUSDT in July 2021, PENDING_TRADING)."""

PERPETUAL_UNTIL_MS: Final = 4_133_404_800_000
"""The `deliveryDate` of perpetual contracts, 2100-12-25 (Binance USDⓈ-M docs, "Exchange Information")."""

UNREADABLE: Final = "UNREADABLE"
"""Stands for a status that is no text, or an empty one."""
_DELIVERY_DATE: Final = re.compile(r"_[0-9]{6}$", re.ASCII)
"""How the name of a contract with a delivery ends (Binance USDⓈ-M docs, "Exchange Information")."""
_NOT_IN_WORDS: Final = re.compile(r"[^\w.-]")
_WORD_CHARACTERS: Final = 64


def word_of(value: Any) -> str:
    """A status as it can stand in a column: at most 64 letters, digits, `_`, `.` and `-`; UNREADABLE for no text."""
    if not isinstance(value, str) or not value:
        return UNREADABLE
    return _NOT_IN_WORDS.sub("_", value)[:_WORD_CHARACTERS]


def is_over(status: str, delivery_ms: int, now_ms: int) -> bool:
    """Whether no more trades are to be expected at `now_ms` (exchange ms, as `delivery_ms`)."""
    return status in ENDED or (status in ENDING and delivery_ms <= now_ms)


def is_open(status: str) -> bool:
    """Whether the contract is carried by its status: it has opened, and it has not ended. A halt changes neither."""
    return bool(status) and status not in ENDED and status not in PENDING


def is_halted(status: str) -> bool:
    """Whether the contract neither trades nor is about to begin or to end: a halt, or a word that nobody has seen."""
    return is_open(status) and status != TRADING and status not in ENDING


def is_chosen(name: str, contract_type: str, delivery_ms: int, types: Collection[str]) -> bool:
    """Whether `exchange.contract_types` (`types`) choose a contract of this name and type.

    A type that is not named here is a perpetual if its delivery time says so, or if its name has no delivery date
    (`BTCUSDT_260327`), and an unstated one may still become one; they are chosen with PERPETUAL. A perpetual that is
    being delivered is still one.
    """
    if contract_type in types:
        return True
    if PERPETUAL not in types:
        return False
    if contract_type in CONTRACT_TYPES:
        return contract_type == "PERPETUAL_DELIVERING"
    dated = _DELIVERY_DATE.search(name) is not None
    return contract_type == UNSTATED or delivery_ms >= PERPETUAL_UNTIL_MS or not dated
