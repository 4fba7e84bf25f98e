-- The least that `klagg bench writer` can be compared with: the same rows by COPY and one upsert, and nothing else.

-- name: create_bare
CREATE TEMPORARY TABLE IF NOT EXISTS bare_klines (
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
    official                bigint,
    epoch                   bigint,
    revision                bigint,
    source                  text,
    edge                    text
) ON COMMIT DELETE ROWS;

-- name: copy_bare
COPY bare_klines FROM STDIN (FORMAT BINARY);

-- name: upsert_bare
INSERT INTO klines_minutes AS kept (
    symbol, "interval", open_time, close_time, open, high, low, close, volume, quote_volume, trades, taker_buy_volume,
    taker_buy_quote_volume, first_agg_id, last_agg_id, first_trade_id, last_trade_id, complete, official, epoch, revision,
    source, edge
)
SELECT
    symbol, "interval", timestamptz 'epoch' + open_time * interval '1 millisecond',
    timestamptz 'epoch' + close_time * interval '1 millisecond', open::numeric, high::numeric, low::numeric,
    close::numeric, volume::numeric, quote_volume::numeric, trades, taker_buy_volume::numeric,
    taker_buy_quote_volume::numeric, first_agg_id, last_agg_id, first_trade_id, last_trade_id, complete = 1,
    official = 1, epoch, revision::integer, source, edge
FROM bare_klines
ON CONFLICT (symbol, "interval", open_time) DO UPDATE SET
    close = excluded.close, epoch = excluded.epoch, revision = excluded.revision, complete = excluded.complete,
    official = excluded.official
WHERE (excluded.epoch, excluded.revision, excluded.complete, excluded.official)
    > (kept.epoch, kept.revision, kept.complete, kept.official);

-- name: empty
TRUNCATE klines_seconds, klines_minutes, klines_hours, klines_days, amendments;

-- name: count
SELECT count(*) AS rows FROM klines;

-- name: count_of
SELECT count(*) AS rows FROM klines WHERE open_time = timestamptz 'epoch' + %(open_time)s * interval '1 millisecond';
