"""nautilus_trader: a strategy that asks for bars and subscribes to them. Run with the gateway's address."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Any

from nautilus_trader.adapters.binance import (  # type: ignore[import-not-found]
    BINANCE,
    BinanceAccountType,
    BinanceDataClientConfig,
    BinanceLiveDataClientFactory,
)
from nautilus_trader.config import InstrumentProviderConfig, TradingNodeConfig  # type: ignore[import-not-found]
from nautilus_trader.live.node import TradingNode  # type: ignore[import-not-found]
from nautilus_trader.model.data import Bar as NautilusBar  # type: ignore[import-not-found]
from nautilus_trader.model.data import BarType
from nautilus_trader.trading.strategy import Strategy  # type: ignore[import-not-found]

from tests.long.clients.say import LIMIT, SYMBOL, Bar, history, live

MINUTES = {"1m": 1, "15m": 15}


def type_of(interval: str) -> Any:
    return BarType.from_str(f"{SYMBOL}-PERP.BINANCE-{MINUTES[interval]}-MINUTE-LAST-EXTERNAL")


def interval_of(bar: Any) -> str:
    return f"{bar.bar_type.spec.step}m"


def bar_of(bar: Any) -> Bar:
    """A bar's event is its close, the last millisecond of it."""
    opens_ms = bar.ts_event // 1_000_000 + 1 - MINUTES[interval_of(bar)] * 60_000
    return {
        "t": opens_ms,
        **{name[0]: str(getattr(bar, name)) for name in ("open", "high", "low", "close", "volume")},
    }


class Printer(Strategy):  # type: ignore[misc]
    def on_start(self) -> None:
        self.bars: dict[str, list[Bar]] = {}
        for interval, minutes in MINUTES.items():
            start = self.clock.utc_now() - timedelta(minutes=minutes * LIMIT)
            self.request_bars(type_of(interval), start=start, callback=lambda _, of=interval: self.answered(of))
            self.subscribe_bars(type_of(interval))

    def on_historical_data(self, data: NautilusBar) -> None:
        self.bars.setdefault(interval_of(data), []).append(bar_of(data))

    def answered(self, interval: str) -> None:
        history(interval, self.bars.get(interval, []))

    def on_bar(self, bar: NautilusBar) -> None:
        live(interval_of(bar), bar_of(bar), True)


def main(address: str) -> None:
    client = BinanceDataClientConfig(
        base_url_http=f"http://{address}",
        base_url_ws=f"ws://{address}",
        account_type=BinanceAccountType.USDT_FUTURES,
        instrument_provider=InstrumentProviderConfig(load_all=True),
    )
    node = TradingNode(config=TradingNodeConfig(data_clients={BINANCE: client}))
    node.trader.add_strategy(Printer())
    node.add_data_client_factory(BINANCE, BinanceLiveDataClientFactory)
    node.build()
    node.run()


if __name__ == "__main__":
    main(sys.argv[-1])
