"""A local Binance USDⓈ-M exchange (WebSocket and REST) that plays recordings or a seeded synthetic market."""

from klagg.exchange.limits import Limits
from klagg.localexchange.faults import FaultScript, FaultScriptError, read_faults
from klagg.localexchange.market import Source
from klagg.localexchange.recorded import RecordedMarket
from klagg.localexchange.server import LocalExchange
from klagg.localexchange.synthetic import SyntheticMarket

__all__ = [
    "FaultScript",
    "FaultScriptError",
    "Limits",
    "LocalExchange",
    "RecordedMarket",
    "Source",
    "SyntheticMarket",
    "read_faults",
]
