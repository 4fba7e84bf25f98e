"""Finds the symbol of recordings whose rows do not name it."""

from __future__ import annotations

import re
from pathlib import Path

_WORD = re.compile(r"[^\W_]+(?:_[0-9]{6}(?![0-9]))?")
_PAIR = re.compile(r"(?:[^\W_]+?(?:USDT|USDC|FDUSD|BUSD|TUSD)|[^\W_]{2,}?(?:USD|BTC|ETH|BNB))(?:_[0-9]{6})?")


def symbol_from_name(path: Path) -> str | None:
    """The one symbol that the file's name obviously contains, in capitals, else None.

    "BTCUSDT-aggTrades-2024-07-18.csv.gz" gives BTCUSDT; a name with two symbols or none gives None.
    """
    words = {word.upper() for word in _WORD.findall(path.name)}
    found = {word for word in words if _PAIR.fullmatch(word)}
    return found.pop() if len(found) == 1 else None


def symbol_from_ccxt(pair: object) -> str | None:
    """The exchange's symbol for a ccxt pair: "XRP/ETH" gives XRPETH, "BTC/USDT:USDT" gives BTCUSDT."""
    if not isinstance(pair, str) or "/" not in pair:
        return None
    return pair.split(":", 1)[0].replace("/", "").upper()
