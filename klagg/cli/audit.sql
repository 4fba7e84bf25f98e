-- name: klines
-- The newest versions of one symbol's finals with open times in [from, to), as text at the symbol's scale.
SELECT
    symbol,
    "interval",
    (extract(epoch FROM open_time) * 1000)::bigint AS open_time,
    (extract(epoch FROM close_time) * 1000)::bigint AS close_time,
    open::text AS open,
    high::text AS high,
    low::text AS low,
    close::text AS close,
    volume::text AS volume,
    quote_volume::text AS quote_volume,
    trades,
    taker_buy_volume::text AS taker_buy_volume,
    taker_buy_quote_volume::text AS taker_buy_quote_volume,
    first_agg_id,
    last_agg_id,
    first_trade_id,
    last_trade_id,
    complete::integer AS complete,
    epoch,
    revision,
    source,
    edge
FROM klines
WHERE symbol = %(symbol)s
    AND "interval" = %(interval)s
    AND open_time >= timestamptz 'epoch' + %(from_ms)s * interval '1 millisecond'
    AND open_time < timestamptz 'epoch' + %(to_ms)s * interval '1 millisecond'
    AND revision > 0
ORDER BY klines.open_time;
