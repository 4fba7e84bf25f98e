"""Live klines for people and for existing Binance clients (no process yet)."""
