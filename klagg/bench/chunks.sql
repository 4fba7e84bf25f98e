-- What `klagg bench chunks` measures with. Each layout is a schema of its own with the same names in it: where all
-- intervals share a table, the names per class are views on it, so that every statement is the same for all.

-- name: enter
SELECT set_config('search_path', %(layout)s || ',public', false);

-- name: create_shape
CREATE TABLE shape (
    symbol                  text        COLLATE "C" NOT NULL,
    "interval"              text        COLLATE "C" NOT NULL,
    open_time               timestamptz NOT NULL,
    close_time              timestamptz NOT NULL,
    open                    numeric     NOT NULL,
    high                    numeric     NOT NULL,
    low                     numeric     NOT NULL,
    close                   numeric     NOT NULL,
    volume                  numeric     NOT NULL,
    quote_volume            numeric     NOT NULL,
    trades                  bigint      NOT NULL,
    taker_buy_volume        numeric     NOT NULL,
    taker_buy_quote_volume  numeric     NOT NULL,
    first_agg_id            bigint      NOT NULL,
    last_agg_id             bigint      NOT NULL,
    first_trade_id          bigint      NOT NULL,
    last_trade_id           bigint      NOT NULL,
    complete                boolean     NOT NULL,
    epoch                   bigint      NOT NULL,
    revision                integer     NOT NULL,
    source                  text        NOT NULL,
    edge                    text        NOT NULL,
    PRIMARY KEY (symbol, "interval", open_time)
);

-- name: create_one
CREATE SCHEMA one;
SET search_path = one, public;
CREATE TABLE klines (LIKE public.shape INCLUDING ALL);
SELECT create_hypertable('klines', by_range('open_time', INTERVAL '7 days'), create_default_indexes => false);
CREATE VIEW klines_minutes AS SELECT * FROM klines;
CREATE VIEW klines_hours AS SELECT * FROM klines;
CREATE VIEW klines_days AS SELECT * FROM klines;

-- name: create_wide
CREATE SCHEMA wide;
SET search_path = wide, public;
CREATE TABLE klines (LIKE public.shape INCLUDING ALL);
SELECT create_hypertable('klines', by_range('open_time', INTERVAL '28 days'), create_default_indexes => false);
CREATE VIEW klines_minutes AS SELECT * FROM klines;
CREATE VIEW klines_hours AS SELECT * FROM klines;
CREATE VIEW klines_days AS SELECT * FROM klines;

-- name: create_space
CREATE SCHEMA space;
SET search_path = space, public;
CREATE TABLE klines (LIKE public.shape INCLUDING ALL);
SELECT create_hypertable('klines', by_range('open_time', INTERVAL '7 days'), create_default_indexes => false);
SELECT add_dimension('klines', by_hash('interval', 4));
CREATE VIEW klines_minutes AS SELECT * FROM klines;
CREATE VIEW klines_hours AS SELECT * FROM klines;
CREATE VIEW klines_days AS SELECT * FROM klines;

-- name: create_classes
CREATE SCHEMA classes;
SET search_path = classes, public;
CREATE TABLE klines_seconds (
    LIKE public.shape INCLUDING ALL, CHECK ("interval" IN ('1s', '5s', '15s'))
);
CREATE TABLE klines_minutes (
    LIKE public.shape INCLUDING ALL, CHECK ("interval" IN ('1m', '3m', '5m', '15m', '30m'))
);
CREATE TABLE klines_hours (
    LIKE public.shape INCLUDING ALL, CHECK ("interval" IN ('1h', '2h', '4h', '6h', '8h', '12h'))
);
CREATE TABLE klines_days (
    LIKE public.shape INCLUDING ALL, CHECK ("interval" IN ('1d', '3d', '1w', '1M'))
);
SELECT create_hypertable('klines_seconds', by_range('open_time', INTERVAL '1 day'), create_default_indexes => false);
SELECT create_hypertable('klines_minutes', by_range('open_time', INTERVAL '7 days'), create_default_indexes => false);
SELECT create_hypertable('klines_hours', by_range('open_time', INTERVAL '90 days'), create_default_indexes => false);
SELECT create_hypertable('klines_days', by_range('open_time', INTERVAL '365 days'), create_default_indexes => false);
CREATE VIEW klines AS
SELECT * FROM klines_seconds
UNION ALL
SELECT * FROM klines_minutes
UNION ALL
SELECT * FROM klines_hours
UNION ALL
SELECT * FROM klines_days;

-- name: create_rows
-- The bars of some symbols and one interval as a backfill brings them: symbol by symbol, each in the order of time.
CREATE OR REPLACE FUNCTION public.bars(
    first_symbol integer, last_symbol integer, of_interval text, length interval, since timestamptz, until timestamptz
) RETURNS SETOF public.shape LANGUAGE sql AS $$
    SELECT
        'SYM' || lpad(symbol::text, 4, '0') || 'USDT', of_interval, at, at + length - INTERVAL '1 millisecond',
        64100.10 + symbol, 64120.00 + symbol, 64090.90 + symbol, 64111.10 + symbol, 12.345, 791234.56780, 321, 6.000,
        384600.00000, 10, 90, 100, 420, true, 1, 1, 'own', ''
    FROM generate_series(first_symbol, last_symbol) AS symbol, generate_series(since, until - length, length) AS at
    ORDER BY symbol, at
$$;

-- name: upsert_days
INSERT INTO klines_days AS kept
SELECT * FROM bars(%(first)s, %(last)s, '1d', INTERVAL '1 day', %(since)s, %(until)s)
ON CONFLICT (symbol, "interval", open_time) DO UPDATE SET close = excluded.close
WHERE (excluded.epoch, excluded.revision, excluded.complete) > (kept.epoch, kept.revision, kept.complete);

-- name: upsert_hours
INSERT INTO klines_hours AS kept
SELECT * FROM bars(%(first)s, %(last)s, '1h', INTERVAL '1 hour', %(since)s, %(until)s)
ON CONFLICT (symbol, "interval", open_time) DO UPDATE SET close = excluded.close
WHERE (excluded.epoch, excluded.revision, excluded.complete) > (kept.epoch, kept.revision, kept.complete);

-- name: upsert_minutes
INSERT INTO klines_minutes AS kept
SELECT * FROM bars(%(first)s, %(last)s, '1m', INTERVAL '1 minute', %(since)s, %(until)s)
ON CONFLICT (symbol, "interval", open_time) DO UPDATE SET close = excluded.close
WHERE (excluded.epoch, excluded.revision, excluded.complete) > (kept.epoch, kept.revision, kept.complete);

-- name: last_minutes
SELECT * FROM klines
WHERE symbol = 'SYM0007USDT' AND "interval" = '1m' ORDER BY open_time DESC LIMIT 500;

-- name: last_days
SELECT * FROM klines
WHERE symbol = 'SYM0007USDT' AND "interval" = '1d' ORDER BY open_time DESC LIMIT 500;

-- name: last_hours
SELECT * FROM klines
WHERE symbol = 'SYM0007USDT' AND "interval" = '1h' ORDER BY open_time DESC LIMIT 500;

-- name: latest_of_all
SELECT DISTINCT ON (symbol) * FROM klines
WHERE "interval" = '1m' AND open_time >= %(until)s - INTERVAL '10 minutes' ORDER BY symbol, open_time DESC;

-- name: completeness_of_a_day
SELECT symbol, count(*), count(*) FILTER (WHERE complete) FROM klines
WHERE "interval" = '1m' AND open_time >= %(until)s - INTERVAL '1 day' AND open_time < %(until)s GROUP BY symbol;

-- name: chunks
SELECT count(*) AS chunks FROM timescaledb_information.chunks WHERE hypertable_schema = %(layout)s;

-- name: make_ticking
-- A table whose rows tick, with a fillfactor, in a schema of its own.
CREATE OR REPLACE FUNCTION public.make_ticking(layout text, fullness integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE SCHEMA %I', layout);
    EXECUTE format(
        'CREATE TABLE %I.ticking (LIKE public.shape INCLUDING ALL) WITH (fillfactor = %s)', layout, fullness
    );
END $$;

-- name: create_ticking
SELECT public.make_ticking(%(layout)s, %(fullness)s);

-- name: tick
-- A bar in progress of every symbol, as it stands at a tick: new at its first, then the same row again and again.
INSERT INTO ticking AS kept
SELECT * FROM bars(1, %(symbols)s, '1m', INTERVAL '1 minute', %(since)s, %(since)s + INTERVAL '1 minute')
ON CONFLICT (symbol, "interval", open_time) DO UPDATE SET
    high = excluded.high, low = excluded.low, close = excluded.close + kept.trades, volume = excluded.volume,
    quote_volume = excluded.quote_volume, trades = kept.trades + 1, taker_buy_volume = excluded.taker_buy_volume,
    taker_buy_quote_volume = excluded.taker_buy_quote_volume, last_agg_id = excluded.last_agg_id,
    last_trade_id = excluded.last_trade_id, complete = excluded.complete, revision = excluded.revision;

-- name: flush_statistics
SELECT pg_stat_force_next_flush();

-- name: ticked
SELECT
    n_tup_upd AS updates,
    round(100.0 * n_tup_hot_upd / nullif(n_tup_upd, 0), 1)::float8 AS hot_percent,
    round(pg_table_size(relid) / 1e6, 1)::float8 AS table_mb,
    round(pg_indexes_size(relid) / 1e6, 1)::float8 AS index_mb
FROM pg_stat_user_tables WHERE schemaname = %(layout)s AND relname = 'ticking';
