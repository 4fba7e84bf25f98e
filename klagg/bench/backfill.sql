-- What `klagg bench backfill` compares with.

-- name: bare_copy
COPY klines_minutes (
    symbol, "interval", open_time, close_time, open, high, low, close, volume, quote_volume, trades, taker_buy_volume,
    taker_buy_quote_volume, first_agg_id, last_agg_id, first_trade_id, last_trade_id, complete, official, epoch, revision,
    source, edge
) FROM STDIN (FORMAT TEXT);
