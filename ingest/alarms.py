"""What a person must hear of: a sentence that begins with ALARM in the log, and a counter by kind."""

from __future__ import annotations

import logging
from typing import Final

from klagg.process.stats import Stats

STALLED: Final = "stalled"
"""A connection gives no sign of life, not even an answer to a ping."""
SILENT: Final = "silent"
"""A connection is acknowledged and answers pings, but brings none of the trades that take place."""
DEAD_SYMBOL: Final = "dead_symbol"
"""One symbol's trades do not come, while others on its connection do."""
SILENT_CONTROL: Final = "silent_control"
"""Trades come, but no tickers: the control connection is silent."""
STALE_ROUTE: Final = "stale_route"
"""Everything is connected and acknowledged, and nothing comes at all: the exchange may have moved its streams."""
HAND_OVER: Final = "hand_over"
"""A connection should be replaced, but the one to replace it brings nothing."""
NOT_CARRIED: Final = "not_carried"
"""A symbol that fits the choice is traded, and the exchange does not list it."""


def expect(stats: Stats, *kinds: str) -> None:
    """Show these kinds at 0: Prometheus sees growth only in what it saw before."""
    for kind in kinds:
        stats.add("alarms", 0, kind=kind)


def alarm(stats: Stats, log: logging.Logger, kind: str, sentence: str) -> None:
    """Count an alarm of this `kind` and say it."""
    stats.add("alarms", kind=kind)
    log.error("ALARM: %s", sentence)
