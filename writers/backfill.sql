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
    replaced_complete, replaced_official, was, became, why,
    said_by
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
    kept.became,
    'healed',
    format('epoch %%s', kept.epoch)
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
        AND NOT EXISTS (
            SELECT FROM klines_contradicted AS contradicted
            WHERE contradicted.symbol = kept.symbol
                AND contradicted."interval" = kept."interval"
                AND contradicted.open_time = kept.open_time
        )
    ORDER BY kept.open_time
    FOR UPDATE OF kept
) AS kept
ON CONFLICT (symbol, "interval", open_time, epoch, revision, complete, official, why, said_by) DO UPDATE SET
    replaced_epoch    = excluded.replaced_epoch,
    replaced_revision = excluded.replaced_revision,
    replaced_complete = excluded.replaced_complete,
    replaced_official = excluded.replaced_official,
    was               = excluded.was,
    became            = excluded.became,
    stored_at         = excluded.stored_at;

-- name: lock_symbol
-- Runs of `klagg backfill` store the rows of a symbol one after the other: none changes what another has just judged.
SELECT pg_advisory_xact_lock(hashtextextended('klagg backfill ' || %(symbol)s, 0));

-- name: contradict
-- Compares official rows with those of the exchange that are there already, and notes each that says otherwise. `wins`:
-- the new row takes the place of the old one; `others`: the sources that the old one is of.
--   - A row without trades never takes the place of one with trades, whichever came first.
--   - Of two sources the row with more trades (then more volume, and so on) stays, so that their order does not matter.
--   - Where no other source says what is there, the same one says otherwise now, and its later word counts.
--   - What a person calls right (settle) takes the place of everything but trades by none.
-- A row of an aggregator that holds the exchange's own kline alone is never replaced here.
-- The rows are locked until the transaction ends.
WITH told AS (
    SELECT
        kept.open_time,
        kept.epoch,
        kept.revision,
        kept.complete,
        kept.official,
        jsonb_build_object(
            'open', kept.open, 'high', kept.high, 'low', kept.low, 'close', kept.close, 'volume', kept.volume,
            'quote_volume', kept.quote_volume, 'trades', kept.trades, 'taker_buy_volume', kept.taker_buy_volume,
            'taker_buy_quote_volume', kept.taker_buy_quote_volume
        ) AS held,
        jsonb_build_object(
            'open', official.open::numeric, 'high', official.high::numeric, 'low', official.low::numeric,
            'close', official.close::numeric, 'volume', official.volume::numeric,
            'quote_volume', official.quote_volume::numeric, 'trades', official.trades::bigint,
            'taker_buy_volume', official.taker_buy_volume::numeric,
            'taker_buy_quote_volume', official.taker_buy_quote_volume::numeric
        ) AS said,
        official.trades::bigint = 0 AND kept.trades > 0 AS flat,
        (
            official.trades::bigint, official.volume::numeric, official.quote_volume::numeric,
            official.taker_buy_volume::numeric, official.taker_buy_quote_volume::numeric, official.high::numeric,
            official.low::numeric, official.open::numeric, official.close::numeric
        ) > (
            kept.trades, kept.volume, kept.quote_volume, kept.taker_buy_volume, kept.taker_buy_quote_volume,
            kept.high, kept.low, kept.open, kept.close
        ) AS more
    FROM klines_of_class AS kept
    JOIN official_klines AS official
        ON kept.open_time = timestamptz 'epoch' + official.open_time::bigint * interval '1 millisecond'
    WHERE kept.symbol = %(symbol)s
        AND kept."interval" = %(interval)s
        AND kept.open_time >= timestamptz 'epoch' + %(first_ms)s * interval '1 millisecond'
        AND kept.open_time <= timestamptz 'epoch' + %(last_ms)s * interval '1 millisecond'
        AND (
            kept.open, kept.high, kept.low, kept.close, kept.volume, kept.quote_volume, kept.trades,
            kept.taker_buy_volume, kept.taker_buy_quote_volume
        ) IS DISTINCT FROM (
            official.open::numeric, official.high::numeric, official.low::numeric, official.close::numeric,
            official.volume::numeric, official.quote_volume::numeric, official.trades::bigint,
            official.taker_buy_volume::numeric, official.taker_buy_quote_volume::numeric
        )
        AND (
            kept.epoch = 0
            OR (kept.source = 'exchange' AND kept.revision > 0 AND (kept.official OR EXISTS (
                SELECT FROM klines_contradicted AS contradicted
                WHERE contradicted.symbol = kept.symbol
                    AND contradicted."interval" = kept."interval"
                    AND contradicted.open_time = kept.open_time
            )))
        )
    ORDER BY kept.open_time
    FOR UPDATE OF kept
),
claimed AS (
    SELECT
        told.*,
        ARRAY(
            SELECT source.part
            FROM backfilled AS source
            WHERE source.symbol = %(symbol)s
                AND source."interval" = %(interval)s
                AND source.part <> %(part)s
                AND source.said_from <= told.open_time
                AND source.said_until > told.open_time
                AND NOT EXISTS (
                    SELECT FROM klines_contradicted AS contradicted
                    WHERE contradicted.symbol = %(symbol)s
                        AND contradicted."interval" = %(interval)s
                        AND contradicted.open_time = told.open_time
                        AND contradicted.said_by = source.part
                )
            ORDER BY source.part
        ) AS others
    FROM told
),
judged AS (
    SELECT *, epoch = 0 AND NOT flat AND (%(settle)s OR others = '{}' OR more) AS wins
    FROM claimed
),
noted AS (
    INSERT INTO amendments AS noted (
        symbol, "interval", open_time, epoch, revision, complete, official, source, replaced_epoch, replaced_revision,
        replaced_complete, replaced_official, was, became, why, said_by
    )
    SELECT
        %(symbol)s, %(interval)s, open_time, epoch, revision, false, false, 'exchange',
        CASE WHEN wins THEN epoch END,
        CASE WHEN wins THEN revision END,
        CASE WHEN wins THEN complete END,
        CASE WHEN wins THEN official END,
        held, said,
        CASE WHEN NOT wins THEN 'contradicted' WHEN others = '{}' THEN 'revised' ELSE 'replaced' END,
        CASE
            WHEN NOT wins THEN %(part)s
            WHEN others = '{}' THEN format('%%s before %%s', %(part)s::text, to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US'))
            ELSE other
        END
    FROM judged
    CROSS JOIN LATERAL unnest(CASE WHEN wins AND others <> '{}' THEN others ELSE ARRAY[''] END) AS other
    -- What a source said before its row was replaced is noted already if it says the same again.
    WHERE wins OR NOT EXISTS (
        SELECT FROM klines_contradicted AS contradicted
        WHERE contradicted.symbol = %(symbol)s
            AND contradicted."interval" = %(interval)s
            AND contradicted.open_time = judged.open_time
            AND contradicted.why = 'replaced'
            AND contradicted.said_by = %(part)s
            AND contradicted.was = judged.said
    )
    ON CONFLICT (symbol, "interval", open_time, epoch, revision, complete, official, why, said_by) DO UPDATE SET
        replaced_official = excluded.replaced_official,
        was               = excluded.was,
        became            = excluded.became,
        settled           = NULL,
        settled_at        = NULL,
        stored_at         = excluded.stored_at
    -- What a person has settled stays so until one side says something new.
    WHERE noted.settled = 'agreed' OR (noted.was, noted.became) IS DISTINCT FROM (excluded.was, excluded.became)
)
SELECT
    (extract(epoch FROM open_time) * 1000)::bigint AS open_time,
    epoch,
    revision,
    complete,
    official,
    held::text AS held,
    said::text AS said,
    wins,
    others
FROM judged
ORDER BY judged.open_time;

-- name: contested
-- Whether a contradiction stands among bars.
SELECT EXISTS (
    SELECT
    FROM klines_contradicted
    WHERE symbol = %(symbol)s
        AND "interval" = %(interval)s
        AND open_time >= timestamptz 'epoch' + %(first_ms)s * interval '1 millisecond'
        AND open_time <= timestamptz 'epoch' + %(last_ms)s * interval '1 millisecond'
) AS stands;

-- name: settle
-- Settles contradictions among the rows of a batch that are in the table now: those of the source that says the same as
-- the table since, and those of others whose word the table has taken. A person's word settles all of them.
UPDATE amendments AS noted SET
    settled    = CASE WHEN %(settle)s THEN 'person' ELSE 'agreed' END,
    settled_at = now()
FROM klines_of_class AS kept
JOIN official_klines AS official
    ON kept.open_time = timestamptz 'epoch' + official.open_time::bigint * interval '1 millisecond'
WHERE kept.symbol = %(symbol)s
    AND kept."interval" = %(interval)s
    AND kept.open_time >= timestamptz 'epoch' + %(first_ms)s * interval '1 millisecond'
    AND kept.open_time <= timestamptz 'epoch' + %(last_ms)s * interval '1 millisecond'
    AND (
        kept.open, kept.high, kept.low, kept.close, kept.volume, kept.quote_volume, kept.trades,
        kept.taker_buy_volume, kept.taker_buy_quote_volume
    ) IS NOT DISTINCT FROM (
        official.open::numeric, official.high::numeric, official.low::numeric, official.close::numeric,
        official.volume::numeric, official.quote_volume::numeric, official.trades::bigint,
        official.taker_buy_volume::numeric, official.taker_buy_quote_volume::numeric
    )
    AND noted.symbol = kept.symbol
    AND noted."interval" = kept."interval"
    AND noted.open_time = kept.open_time
    AND noted.settled_at IS NULL
    AND noted.why IN ('replaced', 'contradicted', 'fold')
    AND (
        %(settle)s
        OR (
            noted.why <> 'fold'
            AND (
                noted.said_by = %(part)s
                OR CASE noted.why WHEN 'replaced' THEN noted.was ELSE noted.became END = jsonb_build_object(
                    'open', kept.open, 'high', kept.high, 'low', kept.low, 'close', kept.close, 'volume', kept.volume,
                    'quote_volume', kept.quote_volume, 'trades', kept.trades,
                    'taker_buy_volume', kept.taker_buy_volume, 'taker_buy_quote_volume', kept.taker_buy_quote_volume
                )
            )
        )
    );

-- name: flag
-- Rows of the exchange with a contradiction are official only where none stands any more.
UPDATE klines_of_class AS kept SET official = NOT noted.stands
FROM (
    SELECT open_time, bool_or(settled_at IS NULL) AS stands
    FROM amendments
    WHERE symbol = %(symbol)s
        AND "interval" = %(interval)s
        AND open_time >= timestamptz 'epoch' + %(first_ms)s * interval '1 millisecond'
        AND open_time <= timestamptz 'epoch' + %(last_ms)s * interval '1 millisecond'
        AND why IN ('replaced', 'contradicted', 'fold')
    GROUP BY open_time
) AS noted
WHERE kept.symbol = %(symbol)s
    AND kept."interval" = %(interval)s
    AND kept.open_time = noted.open_time
    AND kept.open_time >= timestamptz 'epoch' + %(first_ms)s * interval '1 millisecond'
    AND kept.open_time <= timestamptz 'epoch' + %(last_ms)s * interval '1 millisecond'
    AND kept.source = 'exchange'
    AND kept.revision > 0
    AND NOT kept.complete
    AND kept.official = noted.stands;

-- name: intervals_there
-- Of some intervals those that the exchange's history has in a range.
SELECT name
FROM unnest(%(names)s::text[]) AS name
WHERE EXISTS (
    SELECT
    FROM klines_of_class AS kept
    WHERE kept.symbol = %(symbol)s
        AND kept."interval" = name
        AND kept.open_time >= timestamptz 'epoch' + %(first_ms)s * interval '1 millisecond'
        AND kept.open_time <= timestamptz 'epoch' + %(last_ms)s * interval '1 millisecond'
        AND kept.source = 'exchange'
);

-- name: folds
-- Holds the exchange's bars of an interval against the fold of its bars of a shorter one (klines_of_shorter), where all
-- of these are there, and notes on both sides where they contradict each other. Bars without trades repeat the close
-- before them; whether such a price opens a longer bar, or is its extreme, is not said anywhere, so either is taken.
-- `agreed`: bars that were contradicted by this fold and are not any more.
-- One pass over both in the order of time and no join: of rows that were just written the server has no statistics, and
-- would compare every bar with every fold.
WITH both_sides AS (
    SELECT
        open_time AS opened, open_time, close_time, epoch, revision, complete, official, true AS is_longer, open, high,
        low, close, volume, quote_volume, trades, taker_buy_volume, taker_buy_quote_volume
    FROM klines_of_class
    WHERE symbol = %(symbol)s
        AND "interval" = %(longer)s
        AND open_time >= timestamptz 'epoch' + %(first_ms)s * interval '1 millisecond'
        AND open_time <= timestamptz 'epoch' + %(last_ms)s * interval '1 millisecond'
        AND source = 'exchange'
        AND revision > 0
    UNION ALL
    SELECT
        CASE WHEN %(length_ms)s > 0 THEN
            date_bin(
                %(length_ms)s * interval '1 millisecond',
                open_time,
                timestamptz 'epoch' + %(anchor_ms)s * interval '1 millisecond'
            )
        ELSE
            date_trunc('month', open_time, 'UTC')
        END,
        open_time, NULL, NULL, NULL, NULL, NULL, false, open, high, low, close, volume, quote_volume, trades,
        taker_buy_volume, taker_buy_quote_volume
    FROM klines_of_shorter
    WHERE symbol = %(symbol)s
        AND "interval" = %(shorter)s
        AND open_time >= timestamptz 'epoch' + %(first_ms)s * interval '1 millisecond'
        AND open_time <= timestamptz 'epoch' + %(last_ms)s * interval '1 millisecond'
        AND source = 'exchange'
        AND revision > 0
),
folded AS (
    SELECT
        opened AS open_time,
        max(close_time) AS close_time,
        max(epoch) AS epoch,
        max(revision) AS revision,
        bool_and(complete) AS complete,
        bool_and(official) AS official,
        max(open) FILTER (WHERE is_longer) AS kept_open,
        max(high) FILTER (WHERE is_longer) AS kept_high,
        max(low) FILTER (WHERE is_longer) AS kept_low,
        max(close) FILTER (WHERE is_longer) AS kept_close,
        max(volume) FILTER (WHERE is_longer) AS kept_volume,
        max(quote_volume) FILTER (WHERE is_longer) AS kept_quote_volume,
        max(trades) FILTER (WHERE is_longer) AS kept_trades,
        max(taker_buy_volume) FILTER (WHERE is_longer) AS kept_taker_buy_volume,
        max(taker_buy_quote_volume) FILTER (WHERE is_longer) AS kept_taker_buy_quote_volume,
        (array_agg(open ORDER BY open_time) FILTER (WHERE NOT is_longer))[1] AS open,
        (array_agg(open ORDER BY open_time) FILTER (WHERE NOT is_longer AND trades > 0))[1] AS traded_open,
        max(high) FILTER (WHERE NOT is_longer) AS high,
        max(high) FILTER (WHERE NOT is_longer AND trades > 0) AS traded_high,
        min(low) FILTER (WHERE NOT is_longer) AS low,
        min(low) FILTER (WHERE NOT is_longer AND trades > 0) AS traded_low,
        (array_agg(close ORDER BY open_time) FILTER (WHERE NOT is_longer))[
            count(*) FILTER (WHERE NOT is_longer)
        ] AS close,
        sum(volume) FILTER (WHERE NOT is_longer) AS volume,
        sum(quote_volume) FILTER (WHERE NOT is_longer) AS quote_volume,
        (sum(trades) FILTER (WHERE NOT is_longer))::bigint AS trades,
        sum(taker_buy_volume) FILTER (WHERE NOT is_longer) AS taker_buy_volume,
        sum(taker_buy_quote_volume) FILTER (WHERE NOT is_longer) AS taker_buy_quote_volume
    FROM both_sides
    GROUP BY opened
    HAVING max(close_time) - opened + interval '1 millisecond'
        = count(*) FILTER (WHERE NOT is_longer) * (%(shorter_ms)s * interval '1 millisecond')
),
judged AS MATERIALIZED (
    SELECT
        *,
        (
            kept_open = open OR kept_open = coalesce(traded_open, open),
            kept_high = high OR kept_high = coalesce(traded_high, high),
            kept_low = low OR kept_low = coalesce(traded_low, low),
            kept_close, kept_volume, kept_quote_volume, kept_trades, kept_taker_buy_volume, kept_taker_buy_quote_volume
        ) IS DISTINCT FROM (
            true, true, true, close, volume, quote_volume, trades, taker_buy_volume, taker_buy_quote_volume
        ) AS unlike
    FROM folded
),
compared AS MATERIALIZED (
    SELECT
        open_time,
        close_time,
        epoch,
        revision,
        complete,
        official,
        jsonb_build_object(
            'open', kept_open, 'high', kept_high, 'low', kept_low, 'close', kept_close, 'volume', kept_volume,
            'quote_volume', kept_quote_volume, 'trades', kept_trades, 'taker_buy_volume', kept_taker_buy_volume,
            'taker_buy_quote_volume', kept_taker_buy_quote_volume
        ) AS held,
        jsonb_build_object(
            'open', CASE WHEN kept_open = open THEN open ELSE coalesce(traded_open, open) END,
            'high', CASE WHEN kept_high = high THEN high ELSE coalesce(traded_high, high) END,
            'low', CASE WHEN kept_low = low THEN low ELSE coalesce(traded_low, low) END,
            'close', close,
            'volume', volume,
            'quote_volume', quote_volume,
            'trades', trades,
            'taker_buy_volume', taker_buy_volume,
            'taker_buy_quote_volume', taker_buy_quote_volume
        ) AS said
    FROM judged
    WHERE unlike
),
sides AS (
    SELECT %(longer)s AS "interval", open_time, epoch, revision, held, said, %(shorter)s AS said_by
    FROM compared
    WHERE %(note_longer)s
    UNION ALL
    -- One look by the key for each contradicted bar: OFFSET keeps the planner from joining whole ranges.
    SELECT %(shorter)s, kept.open_time, kept.epoch, kept.revision, said, held, %(longer)s
    FROM compared
    CROSS JOIN LATERAL (
        SELECT parts.open_time, parts.epoch, parts.revision
        FROM klines_of_shorter AS parts
        WHERE parts.symbol = %(symbol)s
            AND parts."interval" = %(shorter)s
            AND parts.open_time >= compared.open_time
            AND parts.open_time <= compared.close_time
        OFFSET 0
    ) AS kept
    WHERE %(note_shorter)s
),
noted AS (
    INSERT INTO amendments AS noted (
        symbol, "interval", open_time, epoch, revision, complete, official, source, was, became, why, said_by
    )
    SELECT %(symbol)s, "interval", open_time, epoch, revision, false, false, 'exchange', held, said, 'fold', said_by
    FROM sides
    ORDER BY "interval", open_time
    ON CONFLICT (symbol, "interval", open_time, epoch, revision, complete, official, why, said_by) DO UPDATE SET
        was        = excluded.was,
        became     = excluded.became,
        settled    = NULL,
        settled_at = NULL,
        stored_at  = excluded.stored_at
    WHERE noted.settled = 'agreed' OR (noted.was, noted.became) IS DISTINCT FROM (excluded.was, excluded.became)
),
agreed AS (
    UPDATE amendments AS noted SET settled = 'agreed', settled_at = now()
    FROM judged
    WHERE NOT judged.unlike
        AND noted.symbol = %(symbol)s
        AND noted.settled_at IS NULL
        AND noted.why = 'fold'
        AND noted.open_time >= judged.open_time
        AND noted.open_time <= judged.close_time
        AND noted.open_time >= timestamptz 'epoch' + %(first_ms)s * interval '1 millisecond'
        AND noted.open_time <= timestamptz 'epoch' + %(last_ms)s * interval '1 millisecond'
        AND (
            (noted."interval" = %(longer)s AND noted.said_by = %(shorter)s AND noted.open_time = judged.open_time)
            OR (noted."interval" = %(shorter)s AND noted.said_by = %(longer)s)
        )
    RETURNING noted.open_time
)
SELECT
    (extract(epoch FROM open_time) * 1000)::bigint AS open_time,
    epoch,
    revision,
    complete,
    official,
    held::text AS held,
    said::text AS said,
    false AS agreed
FROM compared
UNION ALL
SELECT (extract(epoch FROM min(open_time)) * 1000)::bigint, 0, 0, false, false, '{}', '{}', true
FROM agreed
HAVING count(*) > 0
ORDER BY agreed, open_time;

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
-- replaced where `contradict` says so.
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
        (extract(epoch FROM kept.open_time) * 1000)::bigint = ANY(%(winners)s::bigint[])
    ELSE
        NOT (kept.complete OR kept.official)
        AND (
            kept.revision <= 0
            OR kept.close_time < timestamptz 'epoch' + %(settled_ms)s * interval '1 millisecond'
        )
        AND NOT (excluded.trades = 0 AND kept.trades > 0)
        AND NOT EXISTS (
            SELECT FROM klines_contradicted AS contradicted
            WHERE contradicted.symbol = kept.symbol
                AND contradicted."interval" = kept."interval"
                AND contradicted.open_time = kept.open_time
        )
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
    (extract(epoch FROM loaded_until) * 1000)::bigint AS until_ms,
    bad,
    bad_rows
FROM backfilled;

-- name: lacking
-- How many of some bars are not there.
SELECT count(*) AS lacks
FROM unnest(%(opens)s::bigint[]) AS opened
WHERE NOT EXISTS (
    SELECT
    FROM klines_of_class AS kept
    WHERE kept.symbol = %(symbol)s
        AND kept."interval" = %(interval)s
        AND kept.open_time = timestamptz 'epoch' + opened * interval '1 millisecond'
);

-- name: standing
-- Bars with contradictions that stand, by symbol and interval.
SELECT symbol, "interval", count(DISTINCT open_time) AS bars
FROM klines_contradicted
WHERE (cardinality(%(symbols)s::text[]) = 0 OR symbol = ANY(%(symbols)s::text[]))
    AND "interval" = ANY(%(intervals)s::text[])
GROUP BY symbol, "interval"
ORDER BY symbol, "interval";

-- name: count_days
-- The days of a part that is loaded to its end.
SELECT refresh_symbol_days(
    timestamptz 'epoch' + %(from_ms)s * interval '1 millisecond',
    timestamptz 'epoch' + %(to_ms)s * interval '1 millisecond',
    %(symbol)s,
    %(interval)s
) AS changed;

-- name: note_loaded
INSERT INTO backfilled AS known (symbol, "interval", part, mark, loaded_from, loaded_until, said_from, said_until, bad,
    bad_rows
)
VALUES (
    %(symbol)s,
    %(interval)s,
    %(part)s,
    %(mark)s,
    timestamptz 'epoch' + %(from_ms)s * interval '1 millisecond',
    timestamptz 'epoch' + %(until_ms)s * interval '1 millisecond',
    timestamptz 'epoch' + %(from_ms)s * interval '1 millisecond',
    timestamptz 'epoch' + %(until_ms)s * interval '1 millisecond',
    %(bad)s::jsonb,
    %(bad_rows)s
)
ON CONFLICT (symbol, "interval", part) DO UPDATE SET
    mark         = excluded.mark,
    loaded_from  = excluded.loaded_from,
    loaded_until = excluded.loaded_until,
    said_from    = least(known.said_from, excluded.said_from),
    said_until   = greatest(known.said_until, excluded.said_until),
    bad          = excluded.bad,
    bad_rows     = excluded.bad_rows,
    stored_at    = now();
