"""A local Binance USDⓈ-M exchange (WebSocket and REST) that plays recordings or a seeded synthetic market."""

from klagg.binance.serving.limits import Limits
from klagg.simulator.faults import FaultScript, FaultScriptError, read_faults
from klagg.simulator.market import Source
from klagg.simulator.recorded import RecordedMarket
from klagg.simulator.server import LocalExchange
from klagg.simulator.synthetic import SyntheticMarket

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
