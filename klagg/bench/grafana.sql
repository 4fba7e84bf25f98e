-- What `klagg bench grafana` fills the tables with: as many rows as a market brings, made on the server.

-- name: symbols
-- BTCUSDT, the one that dashboards open with, is among them.
CREATE TEMPORARY TABLE made_symbols AS
SELECT number, CASE number WHEN 1 THEN 'BTCUSDT' ELSE 'SYM' || lpad(number::text, 4, '0') || 'USDT' END AS symbol
FROM generate_series(1, %(symbols)s) AS number;

-- name: listings
INSERT INTO symbols (symbol, generation, price_scale, qty_scale, status, listed_at, last_seen)
SELECT symbol, extract(epoch FROM %(since)s::timestamptz - INTERVAL '90 days') * 1000, 2, 3, 'TRADING',
    %(since)s::timestamptz - INTERVAL '90 days', %(until)s
FROM made_symbols;

-- name: klines_minutes
-- A day at a time, as it comes from the market: bar by bar of all symbols. One in a hundred was amended, one in
-- two hundred is official, one in five hundred is not proven. Every sixth hour the aggregator began anew.
INSERT INTO klines_minutes
SELECT
    symbol, '1m', at, at + INTERVAL '1 minute - 1 millisecond',
    price, price + 3.10, price - 2.90, price + (mixed %% 100 - 50) / 100.0, mixed %% 999983 / 1000.0,
    price * (mixed %% 999983) / 1000.0, mixed %% 5000, mixed %% 499979 / 1000.0, price * (mixed %% 499979) / 1000.0,
    mixed, mixed + 400, mixed + 7, mixed + 900, mixed %% 500 <> 0 AND mixed %% 200 <> 0,
    floor(extract(epoch FROM at) / 21600)::bigint * 21600000, CASE WHEN mixed %% 100 = 0 THEN 2 ELSE 1 END,
    CASE WHEN mixed %% 200 = 0 THEN 'mixed' ELSE 'own' END, '', mixed %% 500 <> 0 AND mixed %% 200 = 0
FROM (
    SELECT
        symbol, at,
        64000.00 / number + (extract(epoch FROM at)::bigint / 60 * 31 + number * 17) %% 9973 / 100.0 AS price,
        (extract(epoch FROM at)::bigint / 60 * 7919 + number * 104729) %% 1000003 AS mixed
    FROM generate_series(
        %(since)s::timestamptz, %(until)s::timestamptz - INTERVAL '1 minute', INTERVAL '1 minute'
    ) AS at
    CROSS JOIN made_symbols
) AS bars
ORDER BY at, symbol;

-- name: klines_hours
INSERT INTO klines_hours
SELECT
    symbol, '1h', date_trunc('hour', open_time, 'UTC'), date_trunc('hour', open_time, 'UTC') + INTERVAL '1 hour - 1 millisecond',
    (array_agg(open ORDER BY open_time))[1], max(high), min(low), (array_agg(close ORDER BY open_time))[count(*)],
    sum(volume), sum(quote_volume), sum(trades), sum(taker_buy_volume), sum(taker_buy_quote_volume), min(first_agg_id),
    max(last_agg_id), min(first_trade_id), max(last_trade_id), bool_and(complete), max(epoch), max(revision),
    CASE WHEN bool_or(official) THEN 'mixed' ELSE 'own' END, '', bool_and(complete OR official) AND bool_or(official)
FROM klines_minutes
WHERE "interval" = '1m' AND open_time >= %(since)s AND open_time < %(until)s
GROUP BY symbol, date_trunc('hour', open_time, 'UTC')
ORDER BY 3, 1;

-- name: klines_days
INSERT INTO klines_days
SELECT
    symbol, '1d', date_trunc('day', open_time, 'UTC'), date_trunc('day', open_time, 'UTC') + INTERVAL '1 day - 1 millisecond',
    (array_agg(open ORDER BY open_time))[1], max(high), min(low), (array_agg(close ORDER BY open_time))[count(*)],
    sum(volume), sum(quote_volume), sum(trades), sum(taker_buy_volume), sum(taker_buy_quote_volume), min(first_agg_id),
    max(last_agg_id), min(first_trade_id), max(last_trade_id), bool_and(complete), max(epoch), max(revision),
    CASE WHEN bool_or(official) THEN 'mixed' ELSE 'own' END, '', bool_and(complete OR official) AND bool_or(official)
FROM klines_hours
WHERE "interval" = '1h' AND open_time >= %(since)s AND open_time < %(until)s
GROUP BY symbol, date_trunc('day', open_time, 'UTC')
ORDER BY 3, 1;

-- name: confirmations
-- One bar in ten was closed by the clock and confirmed by the next trade: only the version changed.
INSERT INTO amendments (
    symbol, "interval", open_time, epoch, revision, complete, official, source, replaced_epoch, replaced_revision,
    replaced_complete, replaced_official, stored_at
)
SELECT symbol, "interval", open_time, epoch, 1, NOT official, official, source, epoch, 1, false, false, close_time + INTERVAL '9 seconds'
FROM klines_minutes
WHERE "interval" = '1m' AND open_time >= %(since)s AND open_time < %(until)s AND first_agg_id %% 10 = 3;

-- name: amendments
INSERT INTO amendments (
    symbol, "interval", open_time, epoch, revision, complete, official, source, replaced_epoch, replaced_revision,
    replaced_complete, replaced_official, was, became, stored_at
)
SELECT
    symbol, "interval", open_time, epoch, 2, complete, official, source, epoch, 1, false, false,
    jsonb_build_object('trades', trades, 'volume', volume, 'source', 'own'),
    jsonb_build_object('trades', trades + 3, 'volume', volume + 0.120)
        || CASE source WHEN 'own' THEN '{"source": "own"}' ELSE '{"source": "mixed"}' END::jsonb,
    close_time + first_agg_id %% 900 * INTERVAL '1 second'
FROM klines_minutes
WHERE "interval" = '1m' AND open_time >= %(since)s AND open_time < %(until)s AND revision = 2;

-- name: gaps
-- Half a gap per symbol and hour; a few of them lost, and some of the last ones open.
INSERT INTO gaps (symbol, generation, ids, from_id, to_id, before_time, after_time, opened_at, ended_at, reason)
SELECT
    symbol, 1, 'agg', mixed, mixed + mixed %% 40, at - INTERVAL '1 second', at, at,
    CASE WHEN open THEN NULL ELSE at + (2 + mixed %% 60) * INTERVAL '1 second' END,
    CASE WHEN open THEN NULL WHEN mixed %% 49 = 0 THEN 'lost' WHEN mixed %% 9 = 0 THEN 'healed' ELSE 'repaired' END
FROM (
    SELECT
        symbol, at, (extract(epoch FROM at)::bigint / 60 * 31 + number * 104729) %% 1000003 AS mixed,
        at > %(until)s::timestamptz - INTERVAL '3 hours' AND number %% 40 = 0 AS open
    FROM generate_series(%(since)s::timestamptz, %(until)s::timestamptz - INTERVAL '1 hour', INTERVAL '2 hours') AS at
    CROSS JOIN made_symbols
) AS gaps;

-- name: findings
INSERT INTO findings (id, shard, kind, severity, symbol, "interval", open_time, writer, said_at, closed_at, evidence, standing)
SELECT
    '0:auditor-exchange@1:' || number || '-' || extract(epoch FROM at), 0,
    (ARRAY['UNREPAIRED', 'EDGE_SHIFT', 'EXCHANGE_GAP', 'DATA_LOSS'])[1 + mixed %% 4],
    (ARRAY['error', 'info', 'warning', 'error'])[1 + mixed %% 4], symbol, '1m', at, 'auditor-exchange@1',
    at + INTERVAL '2 minutes', CASE WHEN mixed %% 3 = 0 THEN NULL ELSE at + INTERVAL '5 minutes' END,
    jsonb_build_object('expected', mixed, 'found', mixed - 2), true
FROM (
    SELECT number, symbol, at, (extract(epoch FROM at)::bigint / 3600 + number) %% 97 AS mixed
    FROM generate_series(%(since)s::timestamptz, %(until)s::timestamptz - INTERVAL '1 hour', INTERVAL '4 hours') AS at
    CROSS JOIN made_symbols
) AS said;

-- name: symbol_days
SELECT refresh_symbol_days(%(since)s, %(until)s) AS days;

-- name: audits
-- Every day was compared; two bars in it differ by fills at a close, and a few by something else.
INSERT INTO audits (
    symbol, day, "interval", bars, exact, edge_shift, exchange_gap, local_gap, late, unexplained, audited_at
)
SELECT
    symbol, day, "interval", bars, greatest(bars - 2 - gap - odd, 0), least(bars, 2), gap, 0, 0, odd,
    day + INTERVAL '26 hours'
FROM (
    SELECT
        symbol, day, "interval", bars,
        (bars > 9 AND (hashtext(symbol) + extract(epoch FROM day)::bigint / 86400) %% 11 = 0)::integer AS gap,
        (bars > 9 AND (hashtext(symbol) + extract(epoch FROM day)::bigint / 86400) %% 97 = 0)::integer AS odd
    FROM symbol_days
) AS counted;

-- name: tidy
-- What autovacuum does in its own time.
VACUUM (ANALYZE);

-- name: as_reader
SELECT set_config('role', 'klagg_reader', false);

-- name: size
SELECT pg_database_size(current_database()) AS bytes;

-- name: loaded_until
-- Nothing in a fresh database.
SELECT
    open_time + INTERVAL '1 minute' AS until,
    (SELECT sum(greatest(reltuples, 0))::bigint FROM pg_class WHERE oid IN (SELECT inhrelid FROM pg_inherits
        WHERE inhparent = 'klines_minutes'::regclass)) AS rows
FROM klines_latest
WHERE symbol = 'BTCUSDT' AND "interval" = '1m';
