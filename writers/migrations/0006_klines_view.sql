-- The rows of klines move into the tables by class, and klines becomes a view of all of them. The planner leaves out the
-- tables whose CHECK contradicts the interval that is asked for. The move takes about as long as inserting the rows,
-- and their space a second time until it is done; writers wait.
-- replaces: 0002

LOCK TABLE klines IN ACCESS EXCLUSIVE MODE;

INSERT INTO klines_seconds SELECT * FROM klines WHERE "interval" IN ('1s', '5s', '15s');
INSERT INTO klines_minutes SELECT * FROM klines WHERE "interval" IN ('1m', '3m', '5m', '15m', '30m');
INSERT INTO klines_hours SELECT * FROM klines WHERE "interval" IN ('1h', '2h', '4h', '6h', '8h', '12h');
INSERT INTO klines_days SELECT * FROM klines WHERE "interval" IN ('1d', '3d', '1w', '1M');

-- A row of an interval that no class has would be lost by the drop.
DO $$
BEGIN
    IF (SELECT count(*) FROM klines) <> (SELECT count(*) FROM klines_seconds) + (SELECT count(*) FROM klines_minutes)
        + (SELECT count(*) FROM klines_hours) + (SELECT count(*) FROM klines_days)
    THEN
        RAISE EXCEPTION 'klines holds rows of an interval that klagg does not know';
    END IF;
END $$;

DROP TABLE klines;

CREATE VIEW klines AS
SELECT * FROM klines_seconds
UNION ALL
SELECT * FROM klines_minutes
UNION ALL
SELECT * FROM klines_hours
UNION ALL
SELECT * FROM klines_days;

COMMENT ON VIEW klines IS
    'Klines of Binance''s USDⓈ-M futures, each in its highest version (epoch, revision, complete). Writers write into klines_seconds, klines_minutes, klines_hours and klines_days.';
COMMENT ON COLUMN klines.close_time IS 'The last millisecond of the bar, as Binance writes it.';
COMMENT ON COLUMN klines.volume IS 'In the base asset.';
COMMENT ON COLUMN klines.trades IS 'How many fills; an aggTrade may hold several.';
COMMENT ON COLUMN klines.first_agg_id IS 'Of the first aggTrade; -1 in an empty bar, as the other ids.';
COMMENT ON COLUMN klines.complete IS 'Whether every trade of the bar is proven to be in it.';
COMMENT ON COLUMN klines.epoch IS 'Which run of the aggregator wrote it.';
COMMENT ON COLUMN klines.revision IS '0: in progress; 1: the first final; each amendment adds one.';
COMMENT ON COLUMN klines.source IS 'own: from trades; exchange: Binance''s row; mixed: both.';
COMMENT ON COLUMN klines.edge IS 'aggTrades with several fills within 100 ms of the close, whose minute cannot be known.';
