-- refresh_symbol_days may count a single symbol or interval: what `klagg backfill` has loaded is counted at once, and
-- without reading what others have in those days.

DROP FUNCTION refresh_symbol_days(timestamptz, timestamptz);

CREATE FUNCTION refresh_symbol_days(
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
    'Counts the UTC days that [since, until) touches anew into symbol_days, of all or of one symbol and interval; how many rows changed. Repeating it is harmless.';

-- PostgreSQL lets everybody call a new function; to count anew is the writers' affair.
REVOKE EXECUTE ON FUNCTION refresh_symbol_days FROM PUBLIC;
