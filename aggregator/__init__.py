"""From the log to klines: ledger, fold, finality, one commit at a tick."""
