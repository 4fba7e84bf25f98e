-- The klines tables as writers see them: `klines_of_class` stands for the one of the intervals (writers/kline_classes.py).

-- name: create_incoming
-- Takes a batch as it stands in the stream: times in ms, decimals as text. The server turns text into NUMERIC faster than
-- the driver packs Decimals (docs/adr/0003-table-types.md). It belongs to the session and is empty after each commit.
CREATE TEMPORARY TABLE IF NOT EXISTS incoming_klines (
    symbol                  text COLLATE "C",
    "interval"              text COLLATE "C",
    open_time               bigint,
    close_time              bigint,
    open                    text,
    high                    text,
    low                     text,
    close                   text,
    volume                  text,
    quote_volume            text,
    trades                  bigint,
    taker_buy_volume        text,
    taker_buy_quote_volume  text,
    first_agg_id            bigint,
    last_agg_id             bigint,
    first_trade_id          bigint,
    last_trade_id           bigint,
    complete                bigint,
    epoch                   bigint,
    revision                bigint,
    source                  text,
    edge                    text
) ON COMMIT DELETE ROWS;

-- name: copy_incoming
COPY incoming_klines (
    symbol, "interval", open_time, close_time, open, high, low, close, volume, quote_volume, trades, taker_buy_volume,
    taker_buy_quote_volume, first_agg_id, last_agg_id, first_trade_id, last_trade_id, complete, epoch, revision, source,
    edge
) FROM STDIN (FORMAT BINARY);

-- name: upsert
-- Only a higher version wins, in whatever order versions arrive and however often. Rows are locked in the order of the
-- key: writers that lock in one order cannot deadlock. Times are exact: a millisecond is a whole number of microseconds.
INSERT INTO klines_of_class AS kept (
    symbol, "interval", open_time, close_time, open, high, low, close, volume, quote_volume, trades, taker_buy_volume,
    taker_buy_quote_volume, first_agg_id, last_agg_id, first_trade_id, last_trade_id, complete, epoch, revision, source,
    edge
)
SELECT
    symbol,
    "interval",
    timestamptz 'epoch' + open_time * interval '1 millisecond',
    timestamptz 'epoch' + close_time * interval '1 millisecond',
    open::numeric,
    high::numeric,
    low::numeric,
    close::numeric,
    volume::numeric,
    quote_volume::numeric,
    trades,
    taker_buy_volume::numeric,
    taker_buy_quote_volume::numeric,
    first_agg_id,
    last_agg_id,
    first_trade_id,
    last_trade_id,
    complete = 1,
    epoch,
    revision::integer,
    source,
    edge
FROM incoming_klines
WHERE "interval" = ANY (%(intervals)s)
ORDER BY symbol, "interval", open_time
ON CONFLICT (symbol, "interval", open_time) DO UPDATE SET
    close_time             = excluded.close_time,
    open                   = excluded.open,
    high                   = excluded.high,
    low                    = excluded.low,
    close                  = excluded.close,
    volume                 = excluded.volume,
    quote_volume           = excluded.quote_volume,
    trades                 = excluded.trades,
    taker_buy_volume       = excluded.taker_buy_volume,
    taker_buy_quote_volume = excluded.taker_buy_quote_volume,
    first_agg_id           = excluded.first_agg_id,
    last_agg_id            = excluded.last_agg_id,
    first_trade_id         = excluded.first_trade_id,
    last_trade_id          = excluded.last_trade_id,
    complete               = excluded.complete,
    epoch                  = excluded.epoch,
    revision               = excluded.revision,
    source                 = excluded.source,
    edge                   = excluded.edge
WHERE (excluded.epoch, excluded.revision, excluded.complete) > (kept.epoch, kept.revision, kept.complete);
