"""Independent witnesses of the klines (no process yet)."""
