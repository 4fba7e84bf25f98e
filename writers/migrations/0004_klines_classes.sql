-- Klines by class of interval: a table each, because a hypertable has one length of chunk, and a year of daily bars is
-- as many rows as eight hours of minutes (docs/adr/0009-chunks.md). Names and types are those of klines.
-- Rows of bars in progress are written again and again: free room on their pages keeps these updates off the index.

CREATE TABLE klines_seconds (
    LIKE klines INCLUDING COMMENTS,
    PRIMARY KEY (symbol, "interval", open_time),
    CONSTRAINT klines_seconds_interval CHECK ("interval" IN ('1s', '5s', '15s'))
);
CREATE TABLE klines_minutes (
    LIKE klines INCLUDING COMMENTS,
    PRIMARY KEY (symbol, "interval", open_time),
    CONSTRAINT klines_minutes_interval CHECK ("interval" IN ('1m', '3m', '5m', '15m', '30m'))
) WITH (fillfactor = 80);
CREATE TABLE klines_hours (
    LIKE klines INCLUDING COMMENTS,
    PRIMARY KEY (symbol, "interval", open_time),
    CONSTRAINT klines_hours_interval CHECK ("interval" IN ('1h', '2h', '4h', '6h', '8h', '12h'))
) WITH (fillfactor = 80);
CREATE TABLE klines_days (
    LIKE klines INCLUDING COMMENTS,
    PRIMARY KEY (symbol, "interval", open_time),
    CONSTRAINT klines_days_interval CHECK ("interval" IN ('1d', '3d', '1w', '1M'))
) WITH (fillfactor = 50);

COMMENT ON TABLE klines_seconds IS 'The rows of klines of 1s, 5s and 15s.';
COMMENT ON TABLE klines_minutes IS 'The rows of klines of 1m to 30m.';
COMMENT ON TABLE klines_hours IS 'The rows of klines of 1h to 12h.';
COMMENT ON TABLE klines_days IS 'The rows of klines of 1d, 3d, 1w and 1M.';
