"""Recorded trades and official klines of Binance, read from every format that they are kept in.

`open_trades` and `open_klines` tell by its content what a file holds (gzip and zip included) and stream its records.
"""

from klagg.recordings.klines import KlineRecording, open_klines
from klagg.recordings.model import OfficialKline, Refuse, RefusedRow, Trade, TradeIds
from klagg.recordings.trades import TradeRecording, open_trades

__all__ = [
    "KlineRecording",
    "OfficialKline",
    "Refuse",
    "RefusedRow",
    "Trade",
    "TradeIds",
    "TradeRecording",
    "open_klines",
    "open_trades",
]
