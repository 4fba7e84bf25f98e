-- Up to where `klagg backfill` has loaded each piece of history: it goes on there after it was ended.

CREATE TABLE backfilled (
    symbol        text        COLLATE "C" NOT NULL,
    "interval"    text        COLLATE "C" NOT NULL,
    part          text        COLLATE "C" NOT NULL,
    mark          text        NOT NULL,
    loaded_from   timestamptz NOT NULL,
    loaded_until  timestamptz NOT NULL,
    stored_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (symbol, "interval", part)
);

COMMENT ON TABLE backfilled IS 'Which official klines klagg backfill has loaded, by piece of history.';
COMMENT ON COLUMN backfilled.part IS 'The name of a dump file, or REST and the month or year that was asked for.';
COMMENT ON COLUMN backfilled.mark IS 'Size and time of the file: a changed one is read again. Empty for REST.';
COMMENT ON COLUMN backfilled.loaded_until IS 'Bars that open in [loaded_from, loaded_until) have been loaded.';
