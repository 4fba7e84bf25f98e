-- A length of chunk for each class of interval, so that a chunk holds some million rows at 750 symbols, and old rows of
-- one class can be dropped while those of another stay. The primary key stays the only index, as before.
-- requires: timescaledb
-- without: hypertables are off, klines and amendments are plain tables

SELECT create_hypertable(
    'klines_seconds', by_range('open_time', INTERVAL '1 day'), create_default_indexes => false, migrate_data => true
);
SELECT create_hypertable(
    'klines_minutes', by_range('open_time', INTERVAL '7 days'), create_default_indexes => false, migrate_data => true
);
SELECT create_hypertable(
    'klines_hours', by_range('open_time', INTERVAL '90 days'), create_default_indexes => false, migrate_data => true
);
SELECT create_hypertable(
    'klines_days', by_range('open_time', INTERVAL '365 days'), create_default_indexes => false, migrate_data => true
);
SELECT create_hypertable(
    'amendments', by_range('open_time', INTERVAL '30 days'), create_default_indexes => false, migrate_data => true
);
