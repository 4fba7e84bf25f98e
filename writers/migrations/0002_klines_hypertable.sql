-- Klines in chunks of seven days: 750 symbols × 7 intervals are about 1.4 million rows a day.
-- The primary key serves every query so far, so TimescaleDB's own index on open_time is left out: it would cost a
-- seventh of the insert rate.
-- requires: timescaledb
-- without: hypertables are off, klines is a plain table

SELECT create_hypertable(
    'klines',
    by_range('open_time', INTERVAL '7 days'),
    create_default_indexes => false,
    migrate_data => true
);
