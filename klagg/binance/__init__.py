"""Binance as klagg speaks with it: endpoints and payloads (pure), and a REST client."""
