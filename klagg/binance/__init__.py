"""Binance's side of the wire: endpoints, payloads and limits (pure), and a REST client."""
