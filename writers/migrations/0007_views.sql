-- Views for people and Grafana. None of them needs TimescaleDB.

-- Intervals.

CREATE VIEW kline_intervals AS
SELECT *
FROM (
    VALUES
        ('1s', 'klines_seconds', 1::integer, INTERVAL '1 second'),
        ('5s', 'klines_seconds', 5::integer, INTERVAL '5 second'),
        ('15s', 'klines_seconds', 15::integer, INTERVAL '15 second'),
        ('1m', 'klines_minutes', 60::integer, INTERVAL '1 minute'),
        ('3m', 'klines_minutes', 180::integer, INTERVAL '3 minute'),
        ('5m', 'klines_minutes', 300::integer, INTERVAL '5 minute'),
        ('15m', 'klines_minutes', 900::integer, INTERVAL '15 minute'),
        ('30m', 'klines_minutes', 1800::integer, INTERVAL '30 minute'),
        ('1h', 'klines_hours', 3600::integer, INTERVAL '1 hour'),
        ('2h', 'klines_hours', 7200::integer, INTERVAL '2 hour'),
        ('4h', 'klines_hours', 14400::integer, INTERVAL '4 hour'),
        ('6h', 'klines_hours', 21600::integer, INTERVAL '6 hour'),
        ('8h', 'klines_hours', 28800::integer, INTERVAL '8 hour'),
        ('12h', 'klines_hours', 43200::integer, INTERVAL '12 hour'),
        ('1d', 'klines_days', 86400::integer, INTERVAL '1 day'),
        ('3d', 'klines_days', 259200::integer, INTERVAL '3 day'),
        ('1w', 'klines_days', 604800::integer, INTERVAL '1 week'),
        ('1M', 'klines_days', NULL::integer, INTERVAL '1 month')
) AS known ("interval", held_in, length_s, length);

COMMENT ON VIEW kline_intervals IS 'Every interval that klagg knows, shortest first within its table.';
COMMENT ON COLUMN kline_intervals.held_in IS 'The table that holds its rows; the view klines shows all of them.';
COMMENT ON COLUMN kline_intervals.length_s IS 'NULL for months.';

-- One view for each interval. The view of months is klines_1mo, because names do not tell klines_1M from klines_1m.

CREATE VIEW klines_1s AS SELECT * FROM klines_seconds WHERE "interval" = '1s';
CREATE VIEW klines_5s AS SELECT * FROM klines_seconds WHERE "interval" = '5s';
CREATE VIEW klines_15s AS SELECT * FROM klines_seconds WHERE "interval" = '15s';
CREATE VIEW klines_1m AS SELECT * FROM klines_minutes WHERE "interval" = '1m';
CREATE VIEW klines_3m AS SELECT * FROM klines_minutes WHERE "interval" = '3m';
CREATE VIEW klines_5m AS SELECT * FROM klines_minutes WHERE "interval" = '5m';
CREATE VIEW klines_15m AS SELECT * FROM klines_minutes WHERE "interval" = '15m';
CREATE VIEW klines_30m AS SELECT * FROM klines_minutes WHERE "interval" = '30m';
CREATE VIEW klines_1h AS SELECT * FROM klines_hours WHERE "interval" = '1h';
CREATE VIEW klines_2h AS SELECT * FROM klines_hours WHERE "interval" = '2h';
CREATE VIEW klines_4h AS SELECT * FROM klines_hours WHERE "interval" = '4h';
CREATE VIEW klines_6h AS SELECT * FROM klines_hours WHERE "interval" = '6h';
CREATE VIEW klines_8h AS SELECT * FROM klines_hours WHERE "interval" = '8h';
CREATE VIEW klines_12h AS SELECT * FROM klines_hours WHERE "interval" = '12h';
CREATE VIEW klines_1d AS SELECT * FROM klines_days WHERE "interval" = '1d';
CREATE VIEW klines_3d AS SELECT * FROM klines_days WHERE "interval" = '3d';
CREATE VIEW klines_1w AS SELECT * FROM klines_days WHERE "interval" = '1w';
CREATE VIEW klines_1mo AS SELECT * FROM klines_days WHERE "interval" = '1M';

COMMENT ON VIEW klines_1s IS 'Klines of 1 second, as in klines.';
COMMENT ON VIEW klines_5s IS 'Klines of 5 seconds, as in klines.';
COMMENT ON VIEW klines_15s IS 'Klines of 15 seconds, as in klines.';
COMMENT ON VIEW klines_1m IS 'Klines of 1 minute, as in klines.';
COMMENT ON VIEW klines_3m IS 'Klines of 3 minutes, as in klines.';
COMMENT ON VIEW klines_5m IS 'Klines of 5 minutes, as in klines.';
COMMENT ON VIEW klines_15m IS 'Klines of 15 minutes, as in klines.';
COMMENT ON VIEW klines_30m IS 'Klines of 30 minutes, as in klines.';
COMMENT ON VIEW klines_1h IS 'Klines of 1 hour, as in klines.';
COMMENT ON VIEW klines_2h IS 'Klines of 2 hours, as in klines.';
COMMENT ON VIEW klines_4h IS 'Klines of 4 hours, as in klines.';
COMMENT ON VIEW klines_6h IS 'Klines of 6 hours, as in klines.';
COMMENT ON VIEW klines_8h IS 'Klines of 8 hours, as in klines.';
COMMENT ON VIEW klines_12h IS 'Klines of 12 hours, as in klines.';
COMMENT ON VIEW klines_1d IS 'Klines of 1 day, as in klines.';
COMMENT ON VIEW klines_3d IS 'Klines of 3 days, as in klines.';
COMMENT ON VIEW klines_1w IS 'Klines of 1 week, as in klines.';
COMMENT ON VIEW klines_1mo IS 'Klines of 1 month, as in klines.';

-- The latest bar of each symbol and interval. Names are found by jumping from one to the next in the primary key, then
-- each bar by a look into it: a scan would read the whole table.

CREATE VIEW klines_latest AS
SELECT
    names.symbol, kinds."interval", bar.open_time, bar.close_time, bar.open, bar.high, bar.low,
    bar.close, bar.volume, bar.quote_volume, bar.trades, bar.taker_buy_volume,
    bar.taker_buy_quote_volume, bar.first_agg_id, bar.last_agg_id, bar.first_trade_id, bar.last_trade_id,
    bar.complete, bar.epoch, bar.revision, bar.source, bar.edge
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
    bar.complete, bar.epoch, bar.revision, bar.source, bar.edge
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
    bar.complete, bar.epoch, bar.revision, bar.source, bar.edge
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
    bar.complete, bar.epoch, bar.revision, bar.source, bar.edge
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

COMMENT ON VIEW klines_latest IS
    'The latest bar of each symbol and interval, final or in progress (revision 0). Fast with a condition on interval.';

-- Completeness by symbol and day.

CREATE VIEW symbol_lifetimes AS
SELECT
    symbol,
    min(coalesce(first_trade, timestamptz 'epoch' + generation * INTERVAL '1 millisecond')) AS begins,
    CASE WHEN bool_and(delisted_at IS NOT NULL) THEN max(delisted_at) ELSE 'infinity' END AS ends
FROM symbols
GROUP BY symbol;

COMMENT ON VIEW symbol_lifetimes IS 'From when to when a symbol is traded, over all of its generations.';

CREATE FUNCTION expected_bars(length_s integer, day timestamptz, begins timestamptz, ends timestamptz, at timestamptz)
RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN length_s <= 86400 THEN greatest(
        0,
        least(
            extract(epoch FROM day) + 86400,
            floor(extract(epoch FROM at) / length_s) * length_s,
            ceil(extract(epoch FROM ends) / length_s) * length_s
        ) - greatest(extract(epoch FROM day), floor(extract(epoch FROM begins) / length_s) * length_s)
    )::bigint / length_s
    ELSE 1
END;

COMMENT ON FUNCTION expected_bars IS
    'How many bars of a length open on a UTC day and are closed at a time, for a symbol that is traded from begins to ends. 1 for lengths beyond a day.';

CREATE VIEW klines_completeness AS
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
    counted.own
FROM (
    SELECT
        symbol,
        "interval",
        date_trunc('day', open_time, 'UTC') AS day,
        count(*) FILTER (WHERE revision > 0) AS bars,
        count(*) FILTER (WHERE revision > 0 AND complete) AS complete,
        count(*) FILTER (WHERE revision > 1) AS amended,
        count(*) FILTER (WHERE revision > 0 AND source = 'own') AS own
    FROM klines
    GROUP BY symbol, "interval", date_trunc('day', open_time, 'UTC')
) AS counted
JOIN kline_intervals AS kinds ON kinds."interval" = counted."interval"
LEFT JOIN symbol_lifetimes AS lives ON lives.symbol = counted.symbol;

COMMENT ON VIEW klines_completeness IS
    'Completeness of each symbol, interval and UTC day, counted now: ask with conditions on symbol and interval. For many days of all symbols ask symbol_days.';
COMMENT ON COLUMN klines_completeness.expected IS 'How many bars should be there by now; without a row in symbols, of a whole day.';
COMMENT ON COLUMN klines_completeness.bars IS 'Finals that are there, complete or not.';
COMMENT ON COLUMN klines_completeness.complete IS 'Finals that are proven to hold every trade.';
COMMENT ON COLUMN klines_completeness.amended IS 'Finals that were amended.';
COMMENT ON COLUMN klines_completeness.own IS 'Finals from trades alone, without official rows.';

-- Conditions on the day alone reach every chunk of the view; the function looks into those of its time only. It returns
-- rows of the view, because a column of a RETURNS TABLE would lose the collation by which the primary key is found.
CREATE FUNCTION completeness(since timestamptz, until timestamptz) RETURNS SETOF klines_completeness
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
        counted.own
    FROM (
        SELECT
            symbol,
            "interval",
            date_trunc('day', open_time, 'UTC') AS day,
            count(*) FILTER (WHERE revision > 0) AS bars,
            count(*) FILTER (WHERE revision > 0 AND complete) AS complete,
            count(*) FILTER (WHERE revision > 1) AS amended,
            count(*) FILTER (WHERE revision > 0 AND source = 'own') AS own
        FROM klines
        WHERE open_time >= since AND open_time < until
        GROUP BY symbol, "interval", date_trunc('day', open_time, 'UTC')
    ) AS counted
    JOIN kline_intervals AS kinds ON kinds."interval" = counted."interval"
    LEFT JOIN symbol_lifetimes AS lives ON lives.symbol = counted.symbol
$$;

COMMENT ON FUNCTION completeness IS
    'The bars of each symbol, interval and UTC day that open in [since, until): expected so far, there, complete, amended, from trades alone. Days without any bar are only in symbol_days.';

CREATE TABLE symbol_days (
    symbol        text        COLLATE "C" NOT NULL,
    "interval"    text        COLLATE "C" NOT NULL,
    day           timestamptz NOT NULL,
    expected      bigint      NOT NULL,
    bars          bigint      NOT NULL,
    complete      bigint      NOT NULL,
    amended       bigint      NOT NULL,
    own           bigint      NOT NULL,
    counted_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY ("interval", day, symbol)
);

COMMENT ON TABLE symbol_days IS
    'klines_completeness as it was counted at counted_at by refresh_symbol_days, also days on which a known series has no bar at all.';

CREATE FUNCTION refresh_symbol_days(since timestamptz, until timestamptz) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    first_day CONSTANT timestamptz := date_trunc('day', since, 'UTC');
    end_day CONSTANT timestamptz := date_trunc('day', until - INTERVAL '1 microsecond', 'UTC') + INTERVAL '1 day';
    changed bigint;
BEGIN
    WITH counted AS MATERIALIZED (
        SELECT * FROM completeness(first_day, end_day)
    ), silent AS (
        SELECT series.symbol, series."interval", at.day, kinds.length_s, lives.begins, lives.ends
        FROM (
            SELECT symbol, "interval" FROM symbol_days
            WHERE day >= first_day - INTERVAL '31 days' AND day < first_day AND bars > 0
            UNION
            SELECT symbol, "interval" FROM counted
        ) AS series
        JOIN kline_intervals AS kinds ON kinds."interval" = series."interval" AND kinds.length_s <= 86400
        CROSS JOIN generate_series(first_day, end_day - INTERVAL '1 day', INTERVAL '1 day') AS at (day)
        LEFT JOIN symbol_lifetimes AS lives ON lives.symbol = series.symbol
    ), shown AS (
        SELECT symbol, "interval", day, expected, bars, complete, amended, own FROM counted
        UNION ALL
        SELECT
            symbol, "interval", day,
            expected_bars(length_s, day, coalesce(begins, day), coalesce(ends, 'infinity'), now()), 0, 0, 0, 0
        FROM silent
        WHERE NOT EXISTS (
            SELECT FROM counted
            WHERE counted.symbol = silent.symbol AND counted."interval" = silent."interval" AND counted.day = silent.day
        )
    )
    INSERT INTO symbol_days AS kept (symbol, "interval", day, expected, bars, complete, amended, own)
    SELECT * FROM shown WHERE expected > 0 OR bars > 0 ORDER BY "interval", day, symbol
    ON CONFLICT ("interval", day, symbol) DO UPDATE SET
        expected = excluded.expected, bars = excluded.bars, complete = excluded.complete, amended = excluded.amended,
        own = excluded.own, counted_at = excluded.counted_at
    WHERE (kept.expected, kept.bars, kept.complete, kept.amended, kept.own)
        IS DISTINCT FROM (excluded.expected, excluded.bars, excluded.complete, excluded.amended, excluded.own);
    GET DIAGNOSTICS changed = ROW_COUNT;
    RETURN changed;
END $$;

COMMENT ON FUNCTION refresh_symbol_days IS
    'Counts the UTC days that [since, until) touches anew into symbol_days; how many rows changed. Repeating it is harmless.';

-- PostgreSQL lets everybody call a new function; to count anew is the writers' affair.
REVOKE EXECUTE ON FUNCTION refresh_symbol_days FROM PUBLIC;

-- Which bars were amended and why.

CREATE VIEW klines_amended AS
SELECT
    symbol, "interval", open_time, epoch, revision, complete,
    CASE
        WHEN replaced_epoch IS NULL THEN 'the version before it was never stored'
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
    source, replaced_epoch, replaced_revision, replaced_complete, was, became, stored_at
FROM amendments
WHERE replaced_epoch IS NULL OR was <> '{}' OR became <> '{}';

COMMENT ON VIEW klines_amended IS
    'Amendments that changed a value, and why. A confirmation (the same values, now proven complete) is only in amendments.';
COMMENT ON COLUMN klines_amended.why IS 'Told from what changed between the two versions.';
COMMENT ON COLUMN klines_amended.was IS 'The values that were replaced, by column; became: by what.';
