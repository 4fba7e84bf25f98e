-- A day expects bars from the first bar of each series on: klagg's own first one, or the first one that was loaded. A
-- symbol's listing says when the exchange began with it, and not when klagg did.

CREATE TABLE series_begins (
    symbol      text        COLLATE "C" NOT NULL,
    "interval"  text        COLLATE "C" NOT NULL,
    begins      timestamptz NOT NULL,
    PRIMARY KEY (symbol, "interval")
);

COMMENT ON TABLE series_begins IS
    'Where the finals of each symbol and interval begin, as refresh_symbol_days saw them. It outlives the bars that retention drops.';
COMMENT ON COLUMN series_begins.begins IS 'The open time of the first final: klagg''s own, or where back-fill has loaded to.';

-- While a name was delisted, and until it traded under its next listing, no bar is expected.
CREATE OR REPLACE VIEW symbol_lifetimes AS
SELECT
    symbol,
    min(coalesce(first_trade, timestamptz 'epoch' + generation * INTERVAL '1 millisecond')) AS begins,
    CASE WHEN bool_and(delisted_at IS NOT NULL) THEN max(delisted_at) ELSE 'infinity' END AS ends,
    range_agg(tstzrange(delisted_at, resumed)) FILTER (WHERE delisted_at < resumed) AS pauses
FROM (
    SELECT
        *,
        CASE WHEN lead(generation) OVER following IS NOT NULL
            THEN coalesce(lead(first_trade) OVER following, 'infinity')
        END AS resumed
    FROM symbols
    WINDOW following AS (PARTITION BY symbol ORDER BY generation)
) AS lives
GROUP BY symbol;

COMMENT ON VIEW symbol_lifetimes IS
    'From when to when a symbol is traded, over all of its generations; klagg may know it for a shorter time (series_begins).';
COMMENT ON COLUMN symbol_lifetimes.pauses IS
    'The times between two generations: from its end until the first trade of the next one; NULL without any.';

CREATE FUNCTION paused_bars(length_s integer, day timestamptz, pauses tstzmultirange, at timestamptz)
RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (
    SELECT coalesce(sum(greatest(
        0,
        floor(extract(epoch FROM least(upper(pause), day + INTERVAL '1 day', at)) / length_s)
        - ceil(extract(epoch FROM greatest(lower(pause), day)) / length_s)
    )), 0)::bigint
    FROM unnest(pauses) AS pause
    WHERE lower(pause) < day + INTERVAL '1 day'
);

COMMENT ON FUNCTION paused_bars IS 'How many bars of a length that open on a UTC day lie in pauses of their symbol, and closed by a time.';

CREATE FUNCTION expected_of(
    length_s integer, day timestamptz, begins timestamptz, ends timestamptz, pauses tstzmultirange, at timestamptz,
    there bigint
) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN greatest(
    there,
    CASE
        WHEN length_s <= 86400 THEN
            expected_bars(length_s, day, coalesce(begins, 'infinity'), coalesce(ends, 'infinity'), at)
            - CASE WHEN pauses IS NULL THEN 0 ELSE paused_bars(length_s, day, pauses, at) END
        WHEN day + coalesce(length_s * INTERVAL '1 second', INTERVAL '1 month') <= at THEN 1
        ELSE 0
    END
);

COMMENT ON FUNCTION expected_of IS
    'How many bars of a length should open on a UTC day and be closed at a time, of a series that begins at begins: until its symbol ends, without the pauses, and never fewer than are there.';

CREATE OR REPLACE VIEW klines_completeness AS
SELECT
    counted.symbol,
    counted."interval",
    counted.day,
    expected_of(
        kinds.length_s, counted.day, least(known.begins, counted.first_bar), lives.ends, lives.pauses, now(),
        counted.bars
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
        min(open_time) FILTER (WHERE revision > 0) AS first_bar,
        count(*) FILTER (WHERE revision > 0) AS bars,
        count(*) FILTER (WHERE revision > 0 AND complete) AS complete,
        count(*) FILTER (WHERE revision > 1) AS amended,
        count(*) FILTER (WHERE revision > 0 AND source = 'own') AS own,
        count(*) FILTER (WHERE revision > 0 AND official) AS official
    FROM klines
    GROUP BY symbol, "interval", date_trunc('day', open_time, 'UTC')
) AS counted
JOIN kline_intervals AS kinds ON kinds."interval" = counted."interval"
LEFT JOIN series_begins AS known ON known.symbol = counted.symbol AND known."interval" = counted."interval"
LEFT JOIN symbol_lifetimes AS lives ON lives.symbol = counted.symbol;

COMMENT ON COLUMN klines_completeness.expected IS
    'How many bars should be there by now: from the first bar of the series on, and never fewer than are there.';

CREATE OR REPLACE FUNCTION completeness(since timestamptz, until timestamptz) RETURNS SETOF klines_completeness
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT
        counted.symbol,
        counted."interval",
        counted.day,
        expected_of(
            kinds.length_s, counted.day,
            least(
                known.begins,
                min(counted.first_bar) OVER (PARTITION BY counted.symbol, counted."interval" ORDER BY counted.day)
            ),
            lives.ends, lives.pauses, now(), counted.bars
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
            min(open_time) FILTER (WHERE revision > 0) AS first_bar,
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
    LEFT JOIN series_begins AS known ON known.symbol = counted.symbol AND known."interval" = counted."interval"
    LEFT JOIN symbol_lifetimes AS lives ON lives.symbol = counted.symbol
$$;

DROP FUNCTION refresh_symbol_days(timestamptz, timestamptz, text, text);

CREATE FUNCTION refresh_symbol_days(
    since timestamptz, until timestamptz, of_symbol text DEFAULT NULL, of_interval text DEFAULT NULL,
    at timestamptz DEFAULT now()
) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    first_day CONSTANT timestamptz := date_trunc('day', since, 'UTC');
    end_day CONSTANT timestamptz := date_trunc('day', until - INTERVAL '1 microsecond', 'UTC') + INTERVAL '1 day';
    changed bigint;
BEGIN
    WITH counted AS MATERIALIZED (
        SELECT
            symbol,
            "interval",
            date_trunc('day', open_time, 'UTC') AS day,
            min(open_time) FILTER (WHERE revision > 0) AS first_bar,
            count(*) FILTER (WHERE revision > 0) AS bars,
            count(*) FILTER (WHERE revision > 0 AND complete) AS complete,
            count(*) FILTER (WHERE revision > 1) AS amended,
            count(*) FILTER (WHERE revision > 0 AND source = 'own') AS own,
            count(*) FILTER (WHERE revision > 0 AND official) AS official
        FROM klines
        WHERE open_time >= first_day AND open_time < end_day
            AND (of_symbol IS NULL OR symbol = of_symbol) AND (of_interval IS NULL OR "interval" = of_interval)
        GROUP BY symbol, "interval", date_trunc('day', open_time, 'UTC')
    ), first_bars AS (
        SELECT symbol, "interval", min(first_bar) AS begins
        FROM counted
        WHERE first_bar IS NOT NULL
        GROUP BY symbol, "interval"
    ), begun AS MATERIALIZED (
        SELECT symbol, "interval", least(known.begins, first_bars.begins) AS begins, known.begins AS before
        FROM first_bars
        FULL JOIN (
            SELECT * FROM series_begins
            WHERE (of_symbol IS NULL OR symbol = of_symbol) AND (of_interval IS NULL OR "interval" = of_interval)
        ) AS known USING (symbol, "interval")
        WHERE least(known.begins, first_bars.begins) < end_day
    ), noted AS (
        INSERT INTO series_begins AS kept (symbol, "interval", begins)
        SELECT symbol, "interval", begins FROM begun
        WHERE before IS NULL OR begins < before
        ORDER BY symbol, "interval"
        ON CONFLICT (symbol, "interval") DO UPDATE SET begins = least(kept.begins, excluded.begins)
    ), reached_back AS (
        -- What was loaded lies before the day with which the series had begun: that day is expected from its midnight.
        UPDATE symbol_days AS later
        SET expected = expected_of(
            kinds.length_s, later.day, begun.begins, lives.ends, lives.pauses, least(at, later.counted_at), later.bars
        )
        FROM begun
        JOIN kline_intervals AS kinds ON kinds."interval" = begun."interval"
        LEFT JOIN symbol_lifetimes AS lives ON lives.symbol = begun.symbol
        WHERE begun.begins < begun.before
            AND later.symbol = begun.symbol AND later."interval" = begun."interval"
            AND later.day >= end_day AND later.day <= begun.before
    ), shown AS (
        SELECT
            begun.symbol, begun."interval", days.day,
            expected_of(
                kinds.length_s, days.day, begun.begins, lives.ends, lives.pauses, at, coalesce(counted.bars, 0)
            ) AS expected,
            coalesce(counted.bars, 0) AS bars,
            coalesce(counted.complete, 0) AS complete,
            coalesce(counted.amended, 0) AS amended,
            coalesce(counted.own, 0) AS own,
            coalesce(counted.official, 0) AS official
        FROM begun
        JOIN kline_intervals AS kinds ON kinds."interval" = begun."interval"
        LEFT JOIN symbol_lifetimes AS lives ON lives.symbol = begun.symbol
        CROSS JOIN generate_series(first_day, end_day - INTERVAL '1 day', INTERVAL '1 day') AS days (day)
        LEFT JOIN counted
            ON counted.symbol = begun.symbol AND counted."interval" = begun."interval" AND counted.day = days.day
        WHERE counted.symbol IS NOT NULL OR (
            kinds.length_s <= 86400 AND days.day >= date_trunc('day', begun.begins, 'UTC') AND (
                EXISTS (
                    SELECT FROM counted AS other
                    WHERE other.symbol = begun.symbol AND other."interval" = begun."interval"
                ) OR EXISTS (
                    SELECT FROM symbol_days AS other
                    WHERE other.symbol = begun.symbol AND other."interval" = begun."interval"
                        AND other.day >= first_day - INTERVAL '31 days' AND other.day < end_day AND other.bars > 0
                )
            )
        )
    ), corrected AS (
        -- Days that an older version expected bars of before the series began.
        DELETE FROM symbol_days AS wrong
        USING begun
        WHERE wrong.symbol = begun.symbol AND wrong."interval" = begun."interval" AND wrong.bars = 0
            AND wrong.day >= first_day AND wrong.day < least(end_day, date_trunc('day', begun.begins, 'UTC'))
    )
    INSERT INTO symbol_days AS kept (symbol, "interval", day, expected, bars, complete, amended, own, official)
    SELECT symbol, "interval", day, expected, bars, complete, amended, own, official
    FROM shown
    WHERE expected > 0 OR bars > 0 OR EXISTS (
        SELECT FROM symbol_days AS there
        WHERE there.symbol = shown.symbol AND there."interval" = shown."interval" AND there.day = shown.day
    )
    ORDER BY "interval", day, symbol
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

COMMENT ON FUNCTION refresh_symbol_days IS
    'Counts the UTC days that [since, until) touches anew into symbol_days, of all or of one symbol and interval; how many rows changed. Bars that closed after at are not expected yet. Repeating it is harmless.';

-- PostgreSQL lets everybody call a new function; to count anew is the writers' affair.
REVOKE EXECUTE ON FUNCTION refresh_symbol_days FROM PUBLIC;

COMMENT ON COLUMN scoreboard.expected IS
    'How many bars should be there, as of counted_at, from the first bar of the series on; bars: how many finals are.';

-- The days that were counted before: their series begin with the first final that is there. Where retention has dropped
-- the bars of the first day that had any, that day expects as many as it had.
INSERT INTO series_begins (symbol, "interval", begins)
SELECT
    days.symbol,
    days."interval",
    CASE
        WHEN bars.first_bar IS NULL OR date_trunc('day', bars.first_bar, 'UTC') > days.first_day
            THEN greatest(
                days.first_day,
                days.first_day + INTERVAL '1 day' - days.bars * coalesce(days.length_s, 86400) * INTERVAL '1 second'
            )
        ELSE bars.first_bar
    END
FROM (
    SELECT DISTINCT ON (symbol_days.symbol, symbol_days."interval")
        symbol_days.symbol, symbol_days."interval", symbol_days.day AS first_day, symbol_days.bars, kinds.length_s
    FROM symbol_days
    JOIN kline_intervals AS kinds ON kinds."interval" = symbol_days."interval"
    WHERE symbol_days.bars > 0
    ORDER BY symbol_days.symbol, symbol_days."interval", symbol_days.day
) AS days
CROSS JOIN LATERAL (
    SELECT min(klines.open_time) AS first_bar
    FROM klines
    WHERE klines.symbol = days.symbol AND klines."interval" = days."interval" AND klines.revision > 0
) AS bars;

DELETE FROM symbol_days AS wrong
USING series_begins AS known
WHERE wrong.symbol = known.symbol AND wrong."interval" = known."interval" AND wrong.bars = 0
    AND wrong.day < date_trunc('day', known.begins, 'UTC');

-- A symbol that never had a bar is not missing any.
DELETE FROM symbol_days AS wrong
WHERE wrong.bars = 0 AND NOT EXISTS (
    SELECT FROM series_begins AS known WHERE known.symbol = wrong.symbol AND known."interval" = wrong."interval"
);

UPDATE symbol_days AS wrong
SET expected = expected_of(
    kinds.length_s, wrong.day, known.begins, lives.ends, lives.pauses, wrong.counted_at, wrong.bars
)
FROM series_begins AS known
JOIN kline_intervals AS kinds ON kinds."interval" = known."interval"
LEFT JOIN symbol_lifetimes AS lives ON lives.symbol = known.symbol
WHERE wrong.symbol = known.symbol AND wrong."interval" = known."interval"
    AND (wrong.day <= known.begins OR wrong.expected < wrong.bars OR lives.pauses IS NOT NULL);
