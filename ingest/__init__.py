"""From the exchange to the log: socket lines, the clock, repair."""
