-- A bar has two words: `complete`, where klagg's own trade ids prove that every trade is in it, and `official`, where
-- nothing is missing, but on the exchange's word: its own klines stand for the bar or for a part of it. Until now
-- `complete` meant either. Rows that hold klines of the exchange are official from here on, and counts follow.
-- The update reads every row once, and rewrites those that the exchange stands for; writers wait.

-- Compressed chunks (0009) are rewritten too, and have a limit of rows for it.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_settings WHERE name = 'timescaledb.max_tuples_decompressed_per_dml_transaction') THEN
        PERFORM set_config('timescaledb.max_tuples_decompressed_per_dml_transaction', '0', true);
    END IF;
END $$;

ALTER TABLE klines_seconds ADD COLUMN official boolean NOT NULL DEFAULT false;
ALTER TABLE klines_minutes ADD COLUMN official boolean NOT NULL DEFAULT false;
ALTER TABLE klines_hours ADD COLUMN official boolean NOT NULL DEFAULT false;
ALTER TABLE klines_days ADD COLUMN official boolean NOT NULL DEFAULT false;

UPDATE klines_seconds SET complete = false, official = true WHERE complete AND source <> 'own';
UPDATE klines_minutes SET complete = false, official = true WHERE complete AND source <> 'own';
UPDATE klines_hours SET complete = false, official = true WHERE complete AND source <> 'own';
UPDATE klines_days SET complete = false, official = true WHERE complete AND source <> 'own';

-- Versions order by (epoch, revision, complete, official): what is proven later by own ids is above the exchange's word.
ALTER TABLE amendments
    ADD COLUMN official          boolean NOT NULL DEFAULT false,
    ADD COLUMN replaced_official boolean;
ALTER TABLE amendments DROP CONSTRAINT amendments_pkey;
UPDATE amendments SET complete = false, official = true WHERE complete AND source <> 'own';
UPDATE amendments SET
    replaced_complete = replaced_complete AND coalesce(was ->> 'source', source) = 'own',
    replaced_official = replaced_complete AND coalesce(was ->> 'source', source) <> 'own'
WHERE replaced_complete IS NOT NULL;
ALTER TABLE amendments ADD PRIMARY KEY (symbol, "interval", open_time, epoch, revision, complete, official);

COMMENT ON COLUMN amendments.epoch IS 'With revision, complete and official: the version that came.';
COMMENT ON COLUMN amendments.replaced_epoch IS
    'With replaced_revision, replaced_complete and replaced_official: the version that stood in klines until then; NULL if none did.';

-- Views take a new column at their end.

CREATE OR REPLACE VIEW klines AS
SELECT * FROM klines_seconds
UNION ALL
SELECT * FROM klines_minutes
UNION ALL
SELECT * FROM klines_hours
UNION ALL
SELECT * FROM klines_days;

COMMENT ON VIEW klines IS
    'Klines of Binance''s USDⓈ-M futures, each in its highest version (epoch, revision, complete, official). Writers write into klines_seconds, klines_minutes, klines_hours and klines_days.';

COMMENT ON COLUMN klines.complete IS
    'Whether klagg''s own trade ids prove that every trade of the bar is in it. Never where official is true; source is then own.';
COMMENT ON COLUMN klines.official IS
    'Whether nothing is missing, but on the exchange''s word: its own klines stand for the bar or for a part of it, and no own id proves it. Never where complete is true; source is then exchange or mixed.';
COMMENT ON COLUMN klines.source IS
    'own: from trades; exchange: Binance''s row; mixed: both, also a bar of own trades for which a row of the exchange with the same values stands.';
COMMENT ON COLUMN klines_seconds.complete IS
    'Whether klagg''s own trade ids prove that every trade of the bar is in it. Never where official is true; source is then own.';
COMMENT ON COLUMN klines_seconds.official IS
    'Whether nothing is missing, but on the exchange''s word: its own klines stand for the bar or for a part of it, and no own id proves it. Never where complete is true; source is then exchange or mixed.';
COMMENT ON COLUMN klines_seconds.source IS
    'own: from trades; exchange: Binance''s row; mixed: both, also a bar of own trades for which a row of the exchange with the same values stands.';
COMMENT ON COLUMN klines_minutes.complete IS
    'Whether klagg''s own trade ids prove that every trade of the bar is in it. Never where official is true; source is then own.';
COMMENT ON COLUMN klines_minutes.official IS
    'Whether nothing is missing, but on the exchange''s word: its own klines stand for the bar or for a part of it, and no own id proves it. Never where complete is true; source is then exchange or mixed.';
COMMENT ON COLUMN klines_minutes.source IS
    'own: from trades; exchange: Binance''s row; mixed: both, also a bar of own trades for which a row of the exchange with the same values stands.';
COMMENT ON COLUMN klines_hours.complete IS
    'Whether klagg''s own trade ids prove that every trade of the bar is in it. Never where official is true; source is then own.';
COMMENT ON COLUMN klines_hours.official IS
    'Whether nothing is missing, but on the exchange''s word: its own klines stand for the bar or for a part of it, and no own id proves it. Never where complete is true; source is then exchange or mixed.';
COMMENT ON COLUMN klines_hours.source IS
    'own: from trades; exchange: Binance''s row; mixed: both, also a bar of own trades for which a row of the exchange with the same values stands.';
COMMENT ON COLUMN klines_days.complete IS
    'Whether klagg''s own trade ids prove that every trade of the bar is in it. Never where official is true; source is then own.';
COMMENT ON COLUMN klines_days.official IS
    'Whether nothing is missing, but on the exchange''s word: its own klines stand for the bar or for a part of it, and no own id proves it. Never where complete is true; source is then exchange or mixed.';
COMMENT ON COLUMN klines_days.source IS
    'own: from trades; exchange: Binance''s row; mixed: both, also a bar of own trades for which a row of the exchange with the same values stands.';

CREATE OR REPLACE VIEW klines_1s AS SELECT * FROM klines_seconds WHERE "interval" = '1s';
CREATE OR REPLACE VIEW klines_5s AS SELECT * FROM klines_seconds WHERE "interval" = '5s';
CREATE OR REPLACE VIEW klines_15s AS SELECT * FROM klines_seconds WHERE "interval" = '15s';
CREATE OR REPLACE VIEW klines_1m AS SELECT * FROM klines_minutes WHERE "interval" = '1m';
CREATE OR REPLACE VIEW klines_3m AS SELECT * FROM klines_minutes WHERE "interval" = '3m';
CREATE OR REPLACE VIEW klines_5m AS SELECT * FROM klines_minutes WHERE "interval" = '5m';
CREATE OR REPLACE VIEW klines_15m AS SELECT * FROM klines_minutes WHERE "interval" = '15m';
CREATE OR REPLACE VIEW klines_30m AS SELECT * FROM klines_minutes WHERE "interval" = '30m';
CREATE OR REPLACE VIEW klines_1h AS SELECT * FROM klines_hours WHERE "interval" = '1h';
CREATE OR REPLACE VIEW klines_2h AS SELECT * FROM klines_hours WHERE "interval" = '2h';
CREATE OR REPLACE VIEW klines_4h AS SELECT * FROM klines_hours WHERE "interval" = '4h';
CREATE OR REPLACE VIEW klines_6h AS SELECT * FROM klines_hours WHERE "interval" = '6h';
CREATE OR REPLACE VIEW klines_8h AS SELECT * FROM klines_hours WHERE "interval" = '8h';
CREATE OR REPLACE VIEW klines_12h AS SELECT * FROM klines_hours WHERE "interval" = '12h';
CREATE OR REPLACE VIEW klines_1d AS SELECT * FROM klines_days WHERE "interval" = '1d';
CREATE OR REPLACE VIEW klines_3d AS SELECT * FROM klines_days WHERE "interval" = '3d';
CREATE OR REPLACE VIEW klines_1w AS SELECT * FROM klines_days WHERE "interval" = '1w';
CREATE OR REPLACE VIEW klines_1mo AS SELECT * FROM klines_days WHERE "interval" = '1M';

CREATE OR REPLACE VIEW klines_latest AS
SELECT
    names.symbol, kinds."interval", bar.open_time, bar.close_time, bar.open, bar.high, bar.low,
    bar.close, bar.volume, bar.quote_volume, bar.trades, bar.taker_buy_volume,
    bar.taker_buy_quote_volume, bar.first_agg_id, bar.last_agg_id, bar.first_trade_id, bar.last_trade_id,
    bar.complete, bar.epoch, bar.revision, bar.source, bar.edge, bar.official
FROM (
    WITH RECURSIVE found AS (
        SELECT (SELECT symbol FROM klines_seconds ORDER BY symbol LIMIT 1) AS symbol
        UNION ALL
        SELECT (SELECT symbol FROM klines_seconds AS next WHERE next.symbol > found.symbol ORDER BY symbol LIMIT 1)
        FROM found WHERE found.symbol IS NOT NULL
    )
    SELECT symbol FROM found WHERE symbol IS NOT NULL
) AS names
CROSS JOIN (VALUES ('1s'), ('5s'), ('15s')) AS kinds ("interval")
CROSS JOIN LATERAL (
    SELECT * FROM klines_seconds AS kept
    WHERE kept.symbol = names.symbol AND kept."interval" = kinds."interval" ORDER BY kept.open_time DESC LIMIT 1
) AS bar
UNION ALL
SELECT
    names.symbol, kinds."interval", bar.open_time, bar.close_time, bar.open, bar.high, bar.low,
    bar.close, bar.volume, bar.quote_volume, bar.trades, bar.taker_buy_volume,
    bar.taker_buy_quote_volume, bar.first_agg_id, bar.last_agg_id, bar.first_trade_id, bar.last_trade_id,
    bar.complete, bar.epoch, bar.revision, bar.source, bar.edge, bar.official
FROM (
    WITH RECURSIVE found AS (
        SELECT (SELECT symbol FROM klines_minutes ORDER BY symbol LIMIT 1) AS symbol
        UNION ALL
        SELECT (SELECT symbol FROM klines_minutes AS next WHERE next.symbol > found.symbol ORDER BY symbol LIMIT 1)
        FROM found WHERE found.symbol IS NOT NULL
    )
    SELECT symbol FROM found WHERE symbol IS NOT NULL
) AS names
CROSS JOIN (VALUES ('1m'), ('3m'), ('5m'), ('15m'), ('30m')) AS kinds ("interval")
CROSS JOIN LATERAL (
    SELECT * FROM klines_minutes AS kept
    WHERE kept.symbol = names.symbol AND kept."interval" = kinds."interval" ORDER BY kept.open_time DESC LIMIT 1
) AS bar
UNION ALL
SELECT
    names.symbol, kinds."interval", bar.open_time, bar.close_time, bar.open, bar.high, bar.low,
    bar.close, bar.volume, bar.quote_volume, bar.trades, bar.taker_buy_volume,
    bar.taker_buy_quote_volume, bar.first_agg_id, bar.last_agg_id, bar.first_trade_id, bar.last_trade_id,
    bar.complete, bar.epoch, bar.revision, bar.source, bar.edge, bar.official
FROM (
    WITH RECURSIVE found AS (
        SELECT (SELECT symbol FROM klines_hours ORDER BY symbol LIMIT 1) AS symbol
        UNION ALL
        SELECT (SELECT symbol FROM klines_hours AS next WHERE next.symbol > found.symbol ORDER BY symbol LIMIT 1)
        FROM found WHERE found.symbol IS NOT NULL
    )
    SELECT symbol FROM found WHERE symbol IS NOT NULL
) AS names
CROSS JOIN (VALUES ('1h'), ('2h'), ('4h'), ('6h'), ('8h'), ('12h')) AS kinds ("interval")
CROSS JOIN LATERAL (
    SELECT * FROM klines_hours AS kept
    WHERE kept.symbol = names.symbol AND kept."interval" = kinds."interval" ORDER BY kept.open_time DESC LIMIT 1
) AS bar
UNION ALL
SELECT
    names.symbol, kinds."interval", bar.open_time, bar.close_time, bar.open, bar.high, bar.low,
    bar.close, bar.volume, bar.quote_volume, bar.trades, bar.taker_buy_volume,
    bar.taker_buy_quote_volume, bar.first_agg_id, bar.last_agg_id, bar.first_trade_id, bar.last_trade_id,
    bar.complete, bar.epoch, bar.revision, bar.source, bar.edge, bar.official
FROM (
    WITH RECURSIVE found AS (
        SELECT (SELECT symbol FROM klines_days ORDER BY symbol LIMIT 1) AS symbol
        UNION ALL
        SELECT (SELECT symbol FROM klines_days AS next WHERE next.symbol > found.symbol ORDER BY symbol LIMIT 1)
        FROM found WHERE found.symbol IS NOT NULL
    )
    SELECT symbol FROM found WHERE symbol IS NOT NULL
) AS names
CROSS JOIN (VALUES ('1d'), ('3d'), ('1w'), ('1M')) AS kinds ("interval")
CROSS JOIN LATERAL (
    SELECT * FROM klines_days AS kept
    WHERE kept.symbol = names.symbol AND kept."interval" = kinds."interval" ORDER BY kept.open_time DESC LIMIT 1
) AS bar;

-- Days count the two apart.

CREATE OR REPLACE VIEW klines_completeness AS
SELECT
    counted.symbol,
    counted."interval",
    counted.day,
    expected_bars(
        kinds.length_s, counted.day, coalesce(lives.begins, counted.day), coalesce(lives.ends, 'infinity'), now()
    ) AS expected,
    counted.bars,
    counted.complete,
    counted.amended,
    counted.own,
    counted.official
FROM (
    SELECT
        symbol,
        "interval",
        date_trunc('day', open_time, 'UTC') AS day,
        count(*) FILTER (WHERE revision > 0) AS bars,
        count(*) FILTER (WHERE revision > 0 AND complete) AS complete,
        count(*) FILTER (WHERE revision > 1) AS amended,
        count(*) FILTER (WHERE revision > 0 AND source = 'own') AS own,
        count(*) FILTER (WHERE revision > 0 AND official) AS official
    FROM klines
    GROUP BY symbol, "interval", date_trunc('day', open_time, 'UTC')
) AS counted
JOIN kline_intervals AS kinds ON kinds."interval" = counted."interval"
LEFT JOIN symbol_lifetimes AS lives ON lives.symbol = counted.symbol;

COMMENT ON COLUMN klines_completeness.bars IS 'Finals that are there, whole or not.';
COMMENT ON COLUMN klines_completeness.complete IS 'Finals that own trade ids prove to hold every trade.';
COMMENT ON COLUMN klines_completeness.official IS
    'Finals that lack nothing on the exchange''s word: its own klines stand for them or for a part of them.';

CREATE OR REPLACE FUNCTION completeness(since timestamptz, until timestamptz) RETURNS SETOF klines_completeness
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT
        counted.symbol,
        counted."interval",
        counted.day,
        expected_bars(
            kinds.length_s, counted.day, coalesce(lives.begins, counted.day), coalesce(lives.ends, 'infinity'), now()
        ) AS expected,
        counted.bars,
        counted.complete,
        counted.amended,
        counted.own,
        counted.official
    FROM (
        SELECT
            symbol,
            "interval",
            date_trunc('day', open_time, 'UTC') AS day,
            count(*) FILTER (WHERE revision > 0) AS bars,
            count(*) FILTER (WHERE revision > 0 AND complete) AS complete,
            count(*) FILTER (WHERE revision > 1) AS amended,
            count(*) FILTER (WHERE revision > 0 AND source = 'own') AS own,
            count(*) FILTER (WHERE revision > 0 AND official) AS official
        FROM klines
        WHERE open_time >= since AND open_time < until
        GROUP BY symbol, "interval", date_trunc('day', open_time, 'UTC')
    ) AS counted
    JOIN kline_intervals AS kinds ON kinds."interval" = counted."interval"
    LEFT JOIN symbol_lifetimes AS lives ON lives.symbol = counted.symbol
$$;

COMMENT ON FUNCTION completeness IS
    'The bars of each symbol, interval and UTC day that open in [since, until): expected so far, there, complete, amended, from trades alone, official. Days without any bar are only in symbol_days.';

ALTER TABLE symbol_days ADD COLUMN official bigint NOT NULL DEFAULT 0;

-- Of days whose klines are gone, no more is called complete than bars from trades alone can be.
UPDATE symbol_days SET
    complete = greatest(complete - (bars - own), 0),
    official = complete - greatest(complete - (bars - own), 0)
WHERE bars > own;

UPDATE symbol_days AS kept SET complete = counted.complete, official = counted.official, counted_at = now()
FROM (
    SELECT
        symbol,
        "interval",
        date_trunc('day', open_time, 'UTC') AS day,
        count(*) FILTER (WHERE revision > 0 AND complete) AS complete,
        count(*) FILTER (WHERE revision > 0 AND official) AS official
    FROM klines
    GROUP BY symbol, "interval", date_trunc('day', open_time, 'UTC')
) AS counted
WHERE kept.bars > kept.own
    AND kept.symbol = counted.symbol AND kept."interval" = counted."interval" AND kept.day = counted.day
    AND (kept.complete, kept.official) IS DISTINCT FROM (counted.complete, counted.official);

CREATE OR REPLACE FUNCTION refresh_symbol_days(
    since timestamptz, until timestamptz, of_symbol text DEFAULT NULL, of_interval text DEFAULT NULL
) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    first_day CONSTANT timestamptz := date_trunc('day', since, 'UTC');
    end_day CONSTANT timestamptz := date_trunc('day', until - INTERVAL '1 microsecond', 'UTC') + INTERVAL '1 day';
    changed bigint;
BEGIN
    WITH counted AS MATERIALIZED (
        SELECT * FROM completeness(first_day, end_day)
        WHERE (of_symbol IS NULL OR symbol = of_symbol) AND (of_interval IS NULL OR "interval" = of_interval)
    ), silent AS (
        SELECT series.symbol, series."interval", at.day, kinds.length_s, lives.begins, lives.ends
        FROM (
            SELECT symbol, "interval" FROM symbol_days
            WHERE day >= first_day - INTERVAL '31 days' AND day < first_day AND bars > 0
                AND (of_symbol IS NULL OR symbol = of_symbol) AND (of_interval IS NULL OR "interval" = of_interval)
            UNION
            SELECT symbol, "interval" FROM counted
        ) AS series
        JOIN kline_intervals AS kinds ON kinds."interval" = series."interval" AND kinds.length_s <= 86400
        CROSS JOIN generate_series(first_day, end_day - INTERVAL '1 day', INTERVAL '1 day') AS at (day)
        LEFT JOIN symbol_lifetimes AS lives ON lives.symbol = series.symbol
    ), shown AS (
        SELECT symbol, "interval", day, expected, bars, complete, amended, own, official FROM counted
        UNION ALL
        SELECT
            symbol, "interval", day,
            expected_bars(length_s, day, coalesce(begins, day), coalesce(ends, 'infinity'), now()), 0, 0, 0, 0, 0
        FROM silent
        WHERE NOT EXISTS (
            SELECT FROM counted
            WHERE counted.symbol = silent.symbol AND counted."interval" = silent."interval" AND counted.day = silent.day
        )
    )
    INSERT INTO symbol_days AS kept (symbol, "interval", day, expected, bars, complete, amended, own, official)
    SELECT * FROM shown WHERE expected > 0 OR bars > 0 ORDER BY "interval", day, symbol
    ON CONFLICT ("interval", day, symbol) DO UPDATE SET
        expected = excluded.expected, bars = excluded.bars, complete = excluded.complete, amended = excluded.amended,
        own = excluded.own, official = excluded.official, counted_at = excluded.counted_at
    WHERE (kept.expected, kept.bars, kept.complete, kept.amended, kept.own, kept.official)
        IS DISTINCT FROM (
            excluded.expected, excluded.bars, excluded.complete, excluded.amended, excluded.own, excluded.official
        );
    GET DIAGNOSTICS changed = ROW_COUNT;
    RETURN changed;
END $$;


CREATE OR REPLACE VIEW scoreboard AS
SELECT
    symbol,
    "interval",
    day,
    sum(expected)::bigint AS expected,
    sum(bars)::bigint AS bars,
    sum(complete)::bigint AS complete,
    sum(amended)::bigint AS amended,
    greatest(sum(expected) - sum(bars), 0)::bigint AS missing,
    sum(audited)::bigint AS audited,
    sum(exact)::bigint AS exact,
    sum(edge_shift)::bigint AS edge_shift,
    sum(exchange_gap)::bigint AS exchange_gap,
    sum(local_gap)::bigint AS local_gap,
    sum(late)::bigint AS late,
    sum(unexplained)::bigint AS unexplained,
    sum(open_findings)::bigint AS open_findings,
    max(counted_at) AS counted_at,
    max(audited_at) AS audited_at,
    sum(official)::bigint AS official
FROM (
    SELECT
        symbol, "interval", day, expected, bars, complete, amended, official, 0::bigint AS audited, 0::bigint AS exact,
        0::bigint AS edge_shift, 0::bigint AS exchange_gap, 0::bigint AS local_gap, 0::bigint AS late,
        0::bigint AS unexplained, 0::bigint AS open_findings, counted_at, NULL::timestamptz AS audited_at
    FROM symbol_days
    UNION ALL
    SELECT
        symbol, "interval", day, 0, 0, 0, 0, 0, bars, exact, edge_shift, exchange_gap, local_gap, late, unexplained, 0,
        NULL, audited_at
    FROM audits
    UNION ALL
    SELECT
        symbol, coalesce("interval", '1m'), date_trunc('day', coalesce(open_time, said_at), 'UTC'), 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 1, NULL, NULL
    FROM findings
    WHERE standing AND closed_at IS NULL AND symbol IS NOT NULL AND coalesce(open_time, said_at) IS NOT NULL
) AS told
GROUP BY symbol, "interval", day;

COMMENT ON COLUMN scoreboard.complete IS 'Finals that own trade ids prove to hold every trade.';
COMMENT ON COLUMN scoreboard.official IS
    'Finals that lack nothing on the exchange''s word: its own klines stand for them or for a part of them.';
COMMENT ON COLUMN symbol_days.complete IS 'Finals that own trade ids prove to hold every trade.';
COMMENT ON COLUMN symbol_days.official IS
    'Finals that lack nothing on the exchange''s word: its own klines stand for them or for a part of them.';
COMMENT ON COLUMN audits.local_gap IS 'There is no bar here, or one that may lack trades: neither complete nor official.';

-- Which bars were amended and why.

CREATE OR REPLACE VIEW klines_amended AS
SELECT
    symbol, "interval", open_time, epoch, revision, complete,
    CASE
        WHEN replaced_epoch IS NULL THEN 'the version before it was never stored'
        WHEN became - 'source' = '{}' AND became ->> 'source' = 'mixed' THEN
            'a row of the exchange with the same values stands for what was missing'
        WHEN became ? 'source' AND became ->> 'source' <> 'own' THEN 'official rows took the place of missing trades'
        WHEN became ? 'source' THEN 'trades took the place of official rows'
        WHEN (became ->> 'trades')::bigint > (was ->> 'trades')::bigint THEN
            format('%s trades came late', (became ->> 'trades')::bigint - (was ->> 'trades')::bigint)
        WHEN (became ->> 'trades')::bigint < (was ->> 'trades')::bigint THEN
            format('%s trades fell away', (was ->> 'trades')::bigint - (became ->> 'trades')::bigint)
        WHEN epoch > replaced_epoch THEN 'a later run of the aggregator saw other trades'
        WHEN became ? 'close' AND NOT became ? 'volume' THEN 'the close that it carries changed'
        ELSE 'its values changed'
    END AS why,
    source, replaced_epoch, replaced_revision, replaced_complete, was, became, stored_at, official, replaced_official
FROM amendments
WHERE replaced_epoch IS NULL OR was <> '{}' OR became <> '{}';

COMMENT ON VIEW klines_amended IS
    'Amendments that changed a value or the source, and why. A confirmation (the same values, now whole) is only in amendments.';

-- The daily rollup of the Timescale licence (0009) counts the two apart as well. Its policy has no beginning any more, so
-- that its next run counts all days anew.
DO $$
BEGIN
    IF to_regclass('klines_daily_from_minutes') IS NULL THEN
        RETURN;
    END IF;
    EXECUTE 'DROP MATERIALIZED VIEW klines_daily_from_minutes';
    EXECUTE $view$
        CREATE MATERIALIZED VIEW klines_daily_from_minutes WITH (timescaledb.continuous) AS
        SELECT
            symbol,
            time_bucket(INTERVAL '1 day', open_time) AS day,
            first(open, open_time) AS open,
            max(high) AS high,
            min(low) AS low,
            last(close, open_time) AS close,
            sum(volume) AS volume,
            sum(quote_volume) AS quote_volume,
            sum(trades) AS trades,
            count(*) AS bars,
            count(*) FILTER (WHERE complete) AS complete,
            count(*) FILTER (WHERE revision > 1) AS amended,
            count(*) FILTER (WHERE official) AS official
        FROM klines_minutes
        WHERE "interval" = '1m' AND revision > 0
        GROUP BY symbol, time_bucket(INTERVAL '1 day', open_time)
        WITH NO DATA
    $view$;
    EXECUTE $policy$
        SELECT add_continuous_aggregate_policy(
            'klines_daily_from_minutes',
            start_offset => NULL, end_offset => INTERVAL '1 hour', schedule_interval => INTERVAL '1 hour'
        )
    $policy$;
    EXECUTE $comment$
        COMMENT ON VIEW klines_daily_from_minutes IS
            'Finals of 1m rolled up by symbol and UTC day, kept up to date by TimescaleDB: to set beside klines_1d, and how many minutes are complete and official.'
    $comment$;
END $$;
