-- What only TimescaleDB under the Timescale licence has: old chunks are compressed, and minutes are rolled up by day.
-- Rows that come late for a compressed chunk are still written. Its jobs need timescaledb.max_background_workers > 0.
-- requires: timescale_license
-- without: compression and continuous aggregates are off

ALTER TABLE klines_seconds SET (
    timescaledb.compress, timescaledb.compress_segmentby = 'symbol, "interval"', timescaledb.compress_orderby = 'open_time'
);
ALTER TABLE klines_minutes SET (
    timescaledb.compress, timescaledb.compress_segmentby = 'symbol, "interval"', timescaledb.compress_orderby = 'open_time'
);
ALTER TABLE klines_hours SET (
    timescaledb.compress, timescaledb.compress_segmentby = 'symbol, "interval"', timescaledb.compress_orderby = 'open_time'
);
ALTER TABLE klines_days SET (
    timescaledb.compress, timescaledb.compress_segmentby = 'symbol, "interval"', timescaledb.compress_orderby = 'open_time'
);
SELECT add_compression_policy('klines_seconds', compress_after => INTERVAL '2 days');
SELECT add_compression_policy('klines_minutes', compress_after => INTERVAL '14 days');
SELECT add_compression_policy('klines_hours', compress_after => INTERVAL '180 days');
SELECT add_compression_policy('klines_days', compress_after => INTERVAL '730 days');

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
    count(*) FILTER (WHERE revision > 1) AS amended
FROM klines_minutes
WHERE "interval" = '1m' AND revision > 0
GROUP BY symbol, time_bucket(INTERVAL '1 day', open_time)
WITH NO DATA;

SELECT add_continuous_aggregate_policy(
    'klines_daily_from_minutes',
    start_offset => INTERVAL '7 days', end_offset => INTERVAL '1 hour', schedule_interval => INTERVAL '1 hour'
);

COMMENT ON VIEW klines_daily_from_minutes IS
    'Finals of 1m rolled up by symbol and UTC day, kept up to date by TimescaleDB: to set beside klines_1d, and how many minutes are there.';
