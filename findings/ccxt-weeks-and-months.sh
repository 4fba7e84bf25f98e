#!/bin/bash
# Where ccxt opens a week and a month, by two functions of the same package.
#
# Version: ccxt 4.5.90 (Python 3.11), without a network.
# Seen: round_timeframe opens the week on Monday and the month on its first day; build_ohlcvc, which makes candles of
#   trades, counts weeks from 1970-01-01 and so opens them on Thursday, and takes a month as 30 days counted from there.
#   So candles that ccxt builds of trades are no candles of an exchange whose weeks open on Monday.
# Exits 0 if this is still so, 1 if not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check ccxt==4.5.90
"$folder/venv/bin/python" - <<'PYTHON'
import sys
from datetime import datetime, timezone

import ccxt

exchange = ccxt.binanceusdm()
at = datetime(2024, 7, 17, 12, tzinfo=timezone.utc)  # a Wednesday
time_ms = int(at.timestamp() * 1000)
trade = {"timestamp": time_ms, "price": 1.0, "amount": 1.0}


def day(ms):
    return datetime.fromtimestamp(ms / 1000, timezone.utc).strftime("%a %Y-%m-%d")


found = {}
for name in ("1w", "1M"):
    found[f"round_timeframe {name}"] = day(exchange.round_timeframe(name, time_ms))
    found[f"build_ohlcvc {name}"] = day(exchange.build_ohlcvc([trade], name)[0][0])
for what, opened in found.items():
    print(f"{what}: {day(time_ms)} is in the candle of {opened}")
wanted = {
    "round_timeframe 1w": "Mon 2024-07-15",
    "build_ohlcvc 1w": "Thu 2024-07-11",
    "round_timeframe 1M": "Mon 2024-07-01",
    "build_ohlcvc 1M": day(time_ms // (30 * 86_400_000) * 30 * 86_400_000),
}
sys.exit(found != wanted)
PYTHON
