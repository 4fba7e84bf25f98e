-- The klines tables as writers see them: `klines_of_class` stands for the one of the intervals (writers/kline_classes.py).
-- Rows come in by `incoming_klines`, and `store` takes them from there.

-- name: create_incoming
-- Takes a batch as it stands in the stream: times in ms, decimals as text. The server turns text into NUMERIC faster than
-- the driver packs Decimals (docs/adr/0003-table-types.md). It belongs to the session and is empty after each commit.
-- `part` numbers the parts of a batch that are stored by themselves: the rows of one table that are the n-th version of
-- their kline in the batch, from the lowest up. A statement cannot touch a row twice.
CREATE TEMPORARY TABLE IF NOT EXISTS incoming_klines (
    part                    bigint,
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

-- name: copy_incoming
COPY incoming_klines (
    part, symbol, "interval", open_time, close_time, open, high, low, close, volume, quote_volume, trades, taker_buy_volume,
    taker_buy_quote_volume, first_agg_id, last_agg_id, first_trade_id, last_trade_id, complete, official, epoch,
    revision, source, edge
) FROM STDIN (FORMAT BINARY);

-- name: lacking
-- Which of these versions the table has neither as they are nor in a higher one, as places in the lists (from 1 on). An
-- epoch of 0 is not known; `complete` then says whether nothing is missing, on whose word ever. Open times are in [first, last], so that only the chunks of that time are looked into.
SELECT wanted.place
FROM
    unnest(
        %(symbols)s::text[], %(intervals)s::text[], %(opens_ms)s::bigint[], %(epochs)s::bigint[],
        %(revisions)s::bigint[], %(completes)s::boolean[], %(officials)s::boolean[]
    ) WITH ORDINALITY AS wanted (symbol, "interval", open_ms, epoch, revision, complete, official, place)
WHERE NOT EXISTS (
    SELECT
    FROM klines_of_class AS kept
    WHERE kept.symbol = wanted.symbol
        AND kept."interval" = wanted."interval"
        AND kept.open_time = timestamptz 'epoch' + wanted.open_ms * interval '1 millisecond'
        AND kept.open_time >= timestamptz 'epoch' + %(first_ms)s * interval '1 millisecond'
        AND kept.open_time <= timestamptz 'epoch' + %(last_ms)s * interval '1 millisecond'
        AND (
            wanted.epoch = 0 AND (kept.revision, kept.complete OR kept.official) >= (wanted.revision, wanted.complete)
            OR wanted.epoch > 0
            AND (kept.epoch, kept.revision, kept.complete, kept.official)
            >= (wanted.epoch, wanted.revision, wanted.complete, wanted.official)
        )
)
ORDER BY wanted.place;

-- name: store
-- Stores a part of a batch. A version that replaces a final goes to `amendments` as well, with what it replaced.
--
-- It runs in two passes, because what a row was before can only be read from the snapshot that a statement begins with,
-- and that is the truth only for rows that nobody else can change any more:
--   1. over_finals false: new rows go in, bars in progress are replaced. Every other row stays as it is, but it is locked.
--   2. over_finals true, if rows are left: they are locked, so the snapshot has what each of them is; finals are replaced.
-- Rows are locked in the first pass alone, in the order of the key, table after table: writers that lock in one order
-- cannot deadlock.
-- Times are exact: a millisecond is a whole number of microseconds.
WITH stored AS (
    INSERT INTO klines_of_class AS kept (
        symbol, "interval", open_time, close_time, open, high, low, close, volume, quote_volume, trades,
        taker_buy_volume, taker_buy_quote_volume, first_agg_id, last_agg_id, first_trade_id, last_trade_id, complete,
        official, epoch, revision, source, edge
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
        official = 1,
        epoch,
        revision::integer,
        source,
        edge
    FROM incoming_klines
    WHERE part = %(part)s
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
        official               = excluded.official,
        epoch                  = excluded.epoch,
        revision               = excluded.revision,
        source                 = excluded.source,
        edge                   = excluded.edge
    WHERE (kept.revision <= 0 OR %(over_finals)s)
        -- The one guard of the table: only a higher version wins, in whatever order versions arrive and however often.
        -- A final (revision above 0) is above every bar in progress, whichever epoch either is of, and finals order by
        -- (epoch, revision, complete, official). A bar in progress keeps its revision and only grows: of two of one
        -- epoch the newer is the one with the later trade, or with more trades where a late one came in. rank_of in
        -- batch.py says the same.
        AND (
            excluded.revision > 0,
            excluded.epoch,
            excluded.revision,
            excluded.complete,
            excluded.official,
            CASE WHEN excluded.revision <= 0 THEN excluded.last_trade_id ELSE 0 END,
            CASE WHEN excluded.revision <= 0 THEN excluded.trades ELSE 0 END
        ) > (
            kept.revision > 0,
            kept.epoch,
            kept.revision,
            kept.complete,
            kept.official,
            CASE WHEN kept.revision <= 0 THEN kept.last_trade_id ELSE 0 END,
            CASE WHEN kept.revision <= 0 THEN kept.trades ELSE 0 END
        )
    RETURNING
        kept.symbol, kept."interval", kept.open_time, kept.epoch, kept.revision, kept.complete, kept.official,
        kept.source,
        -- Only where it is needed: 5,000 wide rows in memory cost a tenth of the rate.
        CASE WHEN %(over_finals)s THEN to_jsonb(kept) END AS "values"
),
noted AS (
    INSERT INTO amendments (
        symbol, "interval", open_time, epoch, revision, complete, official, source, replaced_epoch,
        replaced_revision, replaced_complete, replaced_official, was, became, why
    )
    SELECT
        stored.symbol, stored."interval", stored.open_time, stored.epoch, stored.revision, stored.complete,
        stored.official, stored.source, replaced.epoch, replaced.revision, replaced.complete, replaced.official,
        coalesce(changed.was, '{}'), coalesce(changed.became, '{}'),
        -- Pieces of `edge` that begin with < or > stand first, and say which fills were moved (klagg/edge_splits.py).
        CASE
            WHEN rtrim(substring(changed.became ->> 'edge' FROM '^(?:[<>][^;]*;?)*'), ';')
                <> rtrim(substring(changed.was ->> 'edge' FROM '^(?:[<>][^;]*;?)*'), ';') THEN 'edge'
            ELSE 'amended'
        END
    FROM stored
    LEFT JOIN LATERAL (
        -- LIMIT keeps this a look-up by the key, where a join might read whole chunks; the range of times says which.
        SELECT *
        FROM klines_of_class AS held
        WHERE %(over_finals)s
            AND held.symbol = stored.symbol
            AND held."interval" = stored."interval"
            AND held.open_time = stored.open_time
            AND held.open_time >= timestamptz 'epoch' + %(first_ms)s * interval '1 millisecond'
            AND held.open_time <= timestamptz 'epoch' + %(last_ms)s * interval '1 millisecond'
        LIMIT 1
    ) AS replaced ON true
    LEFT JOIN LATERAL (
        SELECT jsonb_object_agg(old.key, old.value) AS was, jsonb_object_agg(old.key, new.value) AS became
        FROM jsonb_each(to_jsonb(replaced)) AS old
        JOIN jsonb_each(stored."values") AS new USING (key)
        WHERE old.value <> new.value AND old.key NOT IN ('epoch', 'revision', 'complete', 'official')
    ) AS changed ON true
    -- An amendment that nothing stood before is one too: what it amended was lost, or fell to a higher version.
    WHERE stored.revision > 1 OR replaced.revision > 0
    -- It is there already only if the row of `klines` was deleted since.
    ON CONFLICT DO NOTHING
),
done AS (
    DELETE FROM incoming_klines AS incoming
    USING stored
    WHERE incoming.part = %(part)s
        AND incoming.symbol = stored.symbol
        AND incoming."interval" = stored."interval"
        AND timestamptz 'epoch' + incoming.open_time * interval '1 millisecond' = stored.open_time
)
SELECT count(*) AS written
FROM stored;
