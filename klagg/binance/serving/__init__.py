"""Binance's side of the wire, as the gateway and the simulator serve it: payloads, parameters, limits and errors."""
