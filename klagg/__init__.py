"""klagg: provably right klines from every trade of Binance's USDⓈ-M perpetual futures."""

__version__ = "0.1.0"
