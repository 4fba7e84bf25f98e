"""From the exchange to the log: socket lines, the clock, and later the repair process."""
