-- Klines: one row for each symbol, interval and open time, in its highest version.
-- Columns are the fields of a klines entry. Why these types: docs/adr/0003-table-types.md.

CREATE TABLE klines (
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

COMMENT ON TABLE klines IS 'Klines of Binance''s USDⓈ-M futures, each in its highest version (epoch, revision, complete).';
COMMENT ON COLUMN klines.close_time IS 'The last millisecond of the bar, as Binance writes it.';
COMMENT ON COLUMN klines.volume IS 'In the base asset.';
COMMENT ON COLUMN klines.trades IS 'How many fills; an aggTrade may hold several.';
COMMENT ON COLUMN klines.first_agg_id IS 'Of the first aggTrade; -1 in an empty bar, as the other ids.';
COMMENT ON COLUMN klines.complete IS 'Whether every trade of the bar is proven to be in it.';
COMMENT ON COLUMN klines.epoch IS 'Which run of the aggregator wrote it.';
COMMENT ON COLUMN klines.revision IS '0: in progress; 1: the first final; each amendment adds one.';
COMMENT ON COLUMN klines.source IS 'own: from trades; exchange: Binance''s row; mixed: both.';
COMMENT ON COLUMN klines.edge IS 'aggTrades with several fills within 100 ms of the close, whose minute cannot be known.';
