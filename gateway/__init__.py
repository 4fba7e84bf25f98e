"""The process klagg-gateway: live klines and history for people and for existing Binance clients."""
