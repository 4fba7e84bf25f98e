"""The shell of a process: start, signals, heartbeat, statistics, metrics, and the catalogue of all processes."""
