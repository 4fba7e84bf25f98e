#!/bin/bash
# Where freqtrade dates and cuts the weeks that it makes of trades.
#
# Version: freqtrade 2026.9 (Python 3.11), its own public converter, without an exchange.
# Seen: a week runs from Tuesday to Monday and bears the date of that Monday, its last day. An exchange's week, and the
#   weekly candles that freqtrade downloads, run from Monday to Sunday and bear the date of their first day. Days are right.
# Exits 0 if this is still so, 1 if not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check freqtrade==2026.9
"$folder/venv/bin/python" - <<'PYTHON'
import sys
from datetime import datetime, timedelta, timezone

from freqtrade.data.converter import trades_list_to_df, trades_to_ohlcv

FIRST = datetime(2024, 7, 1, tzinfo=timezone.utc)  # a Monday
days = [FIRST + timedelta(days=number, hours=1) for number in range(21)]
# A trade a day, whose amount is the number of its day.
trades = [
    [int(day.timestamp() * 1000), str(number), None, "buy", 1.0, float(number), float(number)]
    for number, day in enumerate(days, 1)
]
candles = trades_to_ohlcv(trades_list_to_df(trades), "1w")
found = {f"{date:%a %Y-%m-%d}": volume for date, volume in zip(candles["date"], candles["volume"])}
for date, volume in found.items():
    print(f"the week of {date}: the days' numbers add up to {volume:g}")
daily = trades_to_ohlcv(trades_list_to_df(trades), "1d")
days_right = [f"{date:%Y-%m-%d}" for date in daily["date"]] == [f"{day:%Y-%m-%d}" for day in days]
# Days 2 to 8 are Tuesday 2 July to Monday 8 July.
wanted = {
    "Mon 2024-07-01": 1.0,
    "Mon 2024-07-08": float(sum(range(2, 9))),
    "Mon 2024-07-15": float(sum(range(9, 16))),
    "Mon 2024-07-22": float(sum(range(16, 22))),
}
sys.exit(not days_right or found != wanted)
PYTHON
