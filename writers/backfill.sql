-- The klines tables as `klagg backfill` sees them: rows of the exchange's own history. klines_of_class stands for the
-- table of the interval's class (writers/kline_classes.py).
-- They are version (0, 1), official: epochs of aggregators are times, so every final that one publishes is higher. No
-- own id proves them, so none is complete.

-- name: create_official
-- Takes rows of one symbol and interval as the exchange writes them: everything is text, which the server converts.
CREATE TEMPORARY TABLE IF NOT EXISTS official_klines (
    open_time               text,
    open                    text,
    high                    text,
    low                     text,
    close                   text,
    volume                  text,
    close_time              text,
    quote_volume            text,
    trades                  text,
    taker_buy_volume        text,
    taker_buy_quote_volume  text
) ON COMMIT DELETE ROWS;

-- name: copy_official
COPY official_klines (
    open_time, open, high, low, close, volume, close_time, quote_volume, trades, taker_buy_volume,
    taker_buy_quote_volume
) FROM STDIN (FORMAT BINARY);

-- name: occupied
-- Whether the table has bars where the official ones go; mostly it has none.
SELECT EXISTS (
    SELECT
    FROM klines_of_class
    WHERE symbol = %(symbol)s
        AND "interval" = %(interval)s
        AND open_time >= timestamptz 'epoch' + %(first_ms)s * interval '1 millisecond'
        AND open_time <= timestamptz 'epoch' + %(last_ms)s * interval '1 millisecond'
) AS there;

-- name: heal
-- Notes which bars of klagg's own the upsert below is going to replace, and what they were; and locks them until it has.
-- They are old, so that hardly anybody else wants them: their locks come before those of other rows of lower keys.
INSERT INTO amendments AS noted (
    symbol, "interval", open_time, epoch, revision, complete, official, source, replaced_epoch, replaced_revision,
    replaced_complete, replaced_official, was, became
)
SELECT
    kept.symbol,
    kept."interval",
    kept.open_time,
    0,
    1,
    false,
    true,
    'exchange',
    kept.epoch,
    kept.revision,
    kept.complete,
    kept.official,
    kept.was,
    kept.became
FROM (
    SELECT
        kept.symbol,
        kept."interval",
        kept.open_time,
        kept.epoch,
        kept.revision,
        kept.complete,
        kept.official,
        changed.was,
        changed.became
    FROM klines_of_class AS kept
    JOIN official_klines AS official
        ON kept.open_time = timestamptz 'epoch' + official.open_time::bigint * interval '1 millisecond'
    CROSS JOIN LATERAL (
        SELECT
            coalesce(jsonb_object_agg(name, old), '{}') AS was,
            coalesce(jsonb_object_agg(name, new), '{}') AS became
        FROM (VALUES
            ('open', to_jsonb(kept.open), to_jsonb(official.open::numeric)),
            ('high', to_jsonb(kept.high), to_jsonb(official.high::numeric)),
            ('low', to_jsonb(kept.low), to_jsonb(official.low::numeric)),
            ('close', to_jsonb(kept.close), to_jsonb(official.close::numeric)),
            ('volume', to_jsonb(kept.volume), to_jsonb(official.volume::numeric)),
            ('quote_volume', to_jsonb(kept.quote_volume), to_jsonb(official.quote_volume::numeric)),
            ('trades', to_jsonb(kept.trades), to_jsonb(official.trades::bigint)),
            ('taker_buy_volume', to_jsonb(kept.taker_buy_volume), to_jsonb(official.taker_buy_volume::numeric)),
            (
                'taker_buy_quote_volume',
                to_jsonb(kept.taker_buy_quote_volume),
                to_jsonb(official.taker_buy_quote_volume::numeric)
            ),
            ('first_agg_id', to_jsonb(kept.first_agg_id), to_jsonb(-1)),
            ('last_agg_id', to_jsonb(kept.last_agg_id), to_jsonb(-1)),
            ('first_trade_id', to_jsonb(kept.first_trade_id), to_jsonb(-1)),
            ('last_trade_id', to_jsonb(kept.last_trade_id), to_jsonb(-1)),
            ('source', to_jsonb(kept.source), to_jsonb('exchange'::text)),
            ('edge', to_jsonb(kept.edge), to_jsonb(''::text))
        ) AS columns (name, old, new)
        WHERE old <> new
    ) AS changed
    WHERE kept.symbol = %(symbol)s
        AND kept."interval" = %(interval)s
        AND kept.open_time >= timestamptz 'epoch' + %(first_ms)s * interval '1 millisecond'
        AND kept.open_time <= timestamptz 'epoch' + %(last_ms)s * interval '1 millisecond'
        AND kept.epoch > 0
        AND NOT (kept.complete OR kept.official)
        AND (
            kept.revision <= 0
            OR kept.close_time < timestamptz 'epoch' + %(settled_ms)s * interval '1 millisecond'
        )
        AND NOT (official.trades::bigint = 0 AND kept.trades > 0)
    ORDER BY kept.open_time
    FOR UPDATE OF kept
) AS kept
ON CONFLICT (symbol, "interval", open_time, epoch, revision, complete, official) DO UPDATE SET
    replaced_epoch    = excluded.replaced_epoch,
    replaced_revision = excluded.replaced_revision,
    replaced_complete = excluded.replaced_complete,
    replaced_official = excluded.replaced_official,
    was               = excluded.was,
    became            = excluded.became,
    stored_at         = excluded.stored_at;

-- name: insert
-- Where the table has none of these bars: a third faster than the upsert. A bar that comes at the same moment from
-- somewhere else makes it fail, and then the upsert decides.
INSERT INTO klines_of_class (
    symbol, "interval", open_time, close_time, open, high, low, close, volume, quote_volume, trades, taker_buy_volume,
    taker_buy_quote_volume, first_agg_id, last_agg_id, first_trade_id, last_trade_id, complete, official, epoch, revision,
    source, edge
)
SELECT
    %(symbol)s,
    %(interval)s,
    timestamptz 'epoch' + open_time::bigint * interval '1 millisecond' AS opened,
    timestamptz 'epoch' + close_time::bigint * interval '1 millisecond',
    open::numeric,
    high::numeric,
    low::numeric,
    close::numeric,
    volume::numeric,
    quote_volume::numeric,
    trades::bigint,
    taker_buy_volume::numeric,
    taker_buy_quote_volume::numeric,
    -1,
    -1,
    -1,
    -1,
    false,
    true,
    0,
    1,
    'exchange',
    ''
FROM official_klines
ORDER BY opened;

-- name: upsert
-- A bar of klagg's own stays, unless it is not whole and never was final, or so old that no aggregator will make
-- it whole; and even then a row without trades does not replace trades that were seen. An earlier official row is
-- corrected if it differs.
-- Rows are locked in the order of the key, as all writers do, so that they cannot deadlock.
INSERT INTO klines_of_class AS kept (
    symbol, "interval", open_time, close_time, open, high, low, close, volume, quote_volume, trades, taker_buy_volume,
    taker_buy_quote_volume, first_agg_id, last_agg_id, first_trade_id, last_trade_id, complete, official, epoch, revision,
    source, edge
)
SELECT
    %(symbol)s,
    %(interval)s,
    timestamptz 'epoch' + open_time::bigint * interval '1 millisecond' AS opened,
    timestamptz 'epoch' + close_time::bigint * interval '1 millisecond',
    open::numeric,
    high::numeric,
    low::numeric,
    close::numeric,
    volume::numeric,
    quote_volume::numeric,
    trades::bigint,
    taker_buy_volume::numeric,
    taker_buy_quote_volume::numeric,
    -1,
    -1,
    -1,
    -1,
    false,
    true,
    0,
    1,
    'exchange',
    ''
FROM official_klines
ORDER BY opened
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
    official               = excluded.official,
    epoch                  = excluded.epoch,
    revision               = excluded.revision,
    source                 = excluded.source,
    edge                   = excluded.edge
WHERE
    CASE WHEN kept.epoch = 0 THEN
        (
            kept.open, kept.high, kept.low, kept.close, kept.volume, kept.quote_volume, kept.trades,
            kept.taker_buy_volume, kept.taker_buy_quote_volume
        ) IS DISTINCT FROM (
            excluded.open, excluded.high, excluded.low, excluded.close, excluded.volume, excluded.quote_volume,
            excluded.trades, excluded.taker_buy_volume, excluded.taker_buy_quote_volume
        )
    ELSE
        NOT (kept.complete OR kept.official)
        AND (
            kept.revision <= 0
            OR kept.close_time < timestamptz 'epoch' + %(settled_ms)s * interval '1 millisecond'
        )
        AND NOT (excluded.trades = 0 AND kept.trades > 0)
    END;

-- name: own
-- The bars of klagg's own that stood against an official row, after the upsert: also those that came meanwhile.
SELECT
    (extract(epoch FROM kept.open_time) * 1000)::bigint AS open_time,
    kept.complete,
    kept.official,
    kept.epoch,
    kept.revision,
    kept.source,
    kept.edge,
    kept.open::text AS own_open,
    kept.high::text AS own_high,
    kept.low::text AS own_low,
    kept.close::text AS own_close,
    kept.volume::text AS own_volume,
    kept.quote_volume::text AS own_quote_volume,
    kept.trades AS own_trades,
    kept.taker_buy_volume::text AS own_taker_buy_volume,
    kept.taker_buy_quote_volume::text AS own_taker_buy_quote_volume,
    official.open AS official_open,
    official.high AS official_high,
    official.low AS official_low,
    official.close AS official_close,
    official.volume AS official_volume,
    official.quote_volume AS official_quote_volume,
    official.trades::bigint AS official_trades,
    official.taker_buy_volume AS official_taker_buy_volume,
    official.taker_buy_quote_volume AS official_taker_buy_quote_volume
FROM klines_of_class AS kept
JOIN official_klines AS official
    ON kept.open_time = timestamptz 'epoch' + official.open_time::bigint * interval '1 millisecond'
WHERE kept.symbol = %(symbol)s
    AND kept."interval" = %(interval)s
    AND kept.open_time >= timestamptz 'epoch' + %(first_ms)s * interval '1 millisecond'
    AND kept.open_time <= timestamptz 'epoch' + %(last_ms)s * interval '1 millisecond'
    AND kept.epoch > 0
ORDER BY kept.open_time;

-- name: loaded
SELECT
    symbol,
    "interval",
    part,
    mark,
    (extract(epoch FROM loaded_from) * 1000)::bigint AS from_ms,
    (extract(epoch FROM loaded_until) * 1000)::bigint AS until_ms
FROM backfilled;

-- name: count_days
-- The days of a part that is loaded to its end.
SELECT refresh_symbol_days(
    timestamptz 'epoch' + %(from_ms)s * interval '1 millisecond',
    timestamptz 'epoch' + %(to_ms)s * interval '1 millisecond',
    %(symbol)s,
    %(interval)s
) AS changed;

-- name: note_loaded
INSERT INTO backfilled (symbol, "interval", part, mark, loaded_from, loaded_until)
VALUES (
    %(symbol)s,
    %(interval)s,
    %(part)s,
    %(mark)s,
    timestamptz 'epoch' + %(from_ms)s * interval '1 millisecond',
    timestamptz 'epoch' + %(until_ms)s * interval '1 millisecond'
)
ON CONFLICT (symbol, "interval", part) DO UPDATE SET
    mark         = excluded.mark,
    loaded_from  = excluded.loaded_from,
    loaded_until = excluded.loaded_until,
    stored_at    = now();
