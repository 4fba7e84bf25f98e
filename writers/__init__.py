"""From the streams to TimescaleDB."""
