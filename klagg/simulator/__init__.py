"""A simulator of Binance USDⓈ-M futures (WebSocket and REST) that plays recordings or a seeded synthetic market."""

from klagg.binance.serving.limits import Limits
from klagg.simulator.faults import FaultScript, FaultScriptError, read_faults
from klagg.simulator.market import MarketSource
from klagg.simulator.recorded import RecordedMarket
from klagg.simulator.server import Simulator
from klagg.simulator.synthetic import SyntheticMarket

__all__ = [
    "FaultScript",
    "FaultScriptError",
    "Limits",
    "MarketSource",
    "RecordedMarket",
    "Simulator",
    "SyntheticMarket",
    "read_faults",
]
