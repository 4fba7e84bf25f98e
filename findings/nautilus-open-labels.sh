#!/bin/bash
# Which minute nautilus_trader's bars of trades bear where a minute had no trade.
#
# Version: nautilus_trader 1.231.0 (Python 3.12 or newer; PYTHON names it), its own aggregator and test clock, no network.
# Seen: with build_with_no_updates=False and labels by open (timestamp_on_close=False, or interval_type="right-open", which
#   ignores timestamp_on_close), the bar behind a gap bears the minute in which the bar before the gap was closed: trades of
#   minutes 0, 1, 5 and 6 make bars of 0, 1, 2 and 6. Labels by close are right.
# Exits 0 if this is still so, 1 if not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 12))' ||
  { echo "nautilus_trader 1.231.0 needs Python 3.12: name one with PYTHON=python3.12" >&2; exit 2; }
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check nautilus_trader==1.231.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys

from nautilus_trader.common.component import TestClock
from nautilus_trader.data.aggregation import TimeBarAggregator
from nautilus_trader.model.data import BarType, TradeTick
from nautilus_trader.model.enums import AggressorSide
from nautilus_trader.model.identifiers import TradeId
from nautilus_trader.model.objects import Price, Quantity
from nautilus_trader.test_kit.providers import TestInstrumentProvider

SECOND = 10**9
FIRST = 1_721_260_800 * SECOND  # 2024-07-18 00:00 UTC
TRADES = (10, 70, 310, 370)  # seconds: in the minutes 0, 1, 5 and 6
instrument = TestInstrumentProvider.btcusdt_binance()


def minutes(**options):
    """The minute that each bar bears; behind it stands the number of its only trade."""
    clock, bars = TestClock(), []
    clock.set_time(FIRST + 5 * SECOND)
    kind = BarType.from_str(f"{instrument.id}-1-MINUTE-LAST-INTERNAL")
    aggregator = TimeBarAggregator(instrument, kind, bars.append, clock, build_with_no_updates=False, **options)
    aggregator.start_timer()
    for number, second in enumerate((*TRADES, 600), 1):
        at = FIRST + second * SECOND
        for event in clock.advance_time(at):
            event.handle()
        if second in TRADES:
            price, size = Price(number, instrument.price_precision), Quantity(1, instrument.size_precision)
            trade_id = TradeId(str(number))
            aggregator.handle_trade_tick(TradeTick(instrument.id, price, size, AggressorSide.BUYER, trade_id, at, at))
    return [((bar.ts_event - FIRST) / SECOND / 60, float(bar.open)) for bar in bars]


found = {
    "by close": minutes(timestamp_on_close=True),
    "by open": minutes(timestamp_on_close=False),
    "right-open, by close": minutes(timestamp_on_close=True, interval_type="right-open"),
}
for what, bars in found.items():
    placed = (f"the trade of minute {TRADES[int(price) - 1] // 60} in the bar {minute:g}" for minute, price in bars)
    print(f"{what}: {', '.join(placed)}")
right = [(1.0, 1.0), (2.0, 2.0), (6.0, 3.0), (7.0, 4.0)]
stale = [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0), (6.0, 4.0)]
sys.exit(not (found["by close"] == right and found["by open"] == found["right-open, by close"] == stale))
PYTHON
