-- History beside the klines: versions that replaced others, findings, holes of the ledger, symbols.
-- Columns are named after the entries that they come from (klagg/contract.py): `klines`, `findings`, `events`.

CREATE TABLE amendments (
    symbol             text        COLLATE "C" NOT NULL,
    "interval"         text        COLLATE "C" NOT NULL,
    open_time          timestamptz NOT NULL,
    epoch              bigint      NOT NULL,
    revision           integer     NOT NULL,
    complete           boolean     NOT NULL,
    source             text        NOT NULL,
    replaced_epoch     bigint,
    replaced_revision  integer,
    replaced_complete  boolean,
    was                jsonb       NOT NULL DEFAULT '{}',
    became             jsonb       NOT NULL DEFAULT '{}',
    stored_at          timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (symbol, "interval", open_time, epoch, revision, complete)
);

COMMENT ON TABLE amendments IS
    'Every version of a kline beyond its first final that the writer stored, and what it replaced. The row in klines is the last.';
COMMENT ON COLUMN amendments.epoch IS 'With revision and complete: the version that came.';
COMMENT ON COLUMN amendments.source IS 'Of the version that came: own, exchange or mixed.';
COMMENT ON COLUMN amendments.replaced_epoch IS
    'With replaced_revision and replaced_complete: the version that stood in klines until then; NULL if none did.';
COMMENT ON COLUMN amendments.was IS
    'The values of the replaced version that differ, by column name of klines; {} if only the version changed (a confirmation).';
COMMENT ON COLUMN amendments.became IS 'The same columns in the version that came. Decimals keep every digit: ->> gives the text.';
COMMENT ON COLUMN amendments.stored_at IS 'When the transaction began that stored it, by the clock of the database.';

CREATE TABLE findings (
    id          text        PRIMARY KEY,
    shard       integer     NOT NULL,
    kind        text        NOT NULL,
    severity    text        NOT NULL CHECK (severity IN ('info', 'warning', 'error')),
    symbol      text        COLLATE "C",
    "interval"  text        COLLATE "C",
    open_time   timestamptz,
    writer      text        NOT NULL,
    said_at     timestamptz,
    closed_at   timestamptz,
    evidence    jsonb       NOT NULL,
    stored_at   timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX findings_said_at ON findings (said_at);

COMMENT ON TABLE findings IS 'What a person should know: entries of findings:{n}.';
COMMENT ON COLUMN findings.id IS 'shard:writer:seq of the entry, which is the same however often the entry is delivered.';
COMMENT ON COLUMN findings.shard IS 'The n of findings:{n}.';
COMMENT ON COLUMN findings.kind IS 'DATA_LOSS, UNREPAIRED, OVERFLOW, …';
COMMENT ON COLUMN findings.symbol IS 'NULL if it concerns no single symbol; likewise interval and open_time.';
COMMENT ON COLUMN findings.writer IS 'The run of the process that said it.';
COMMENT ON COLUMN findings.said_at IS 'Exchange time at which it was said; NULL if the entry has none (time=0).';
COMMENT ON COLUMN findings.closed_at IS 'Since when it is settled; NULL as long as it stands.';
COMMENT ON COLUMN findings.evidence IS 'A JSON object as it was said, or a sentence as a JSON string: evidence #>> ''{}'' gives its text.';

CREATE TABLE gaps (
    symbol       text        COLLATE "C" NOT NULL,
    generation   bigint      NOT NULL,
    ids          text        NOT NULL CHECK (ids IN ('agg', 'trade')),
    from_id      bigint      NOT NULL,
    to_id        bigint      NOT NULL,
    before_time  timestamptz,
    after_time   timestamptz,
    opened_at    timestamptz NOT NULL,
    ended_at     timestamptz,
    reason       text        CHECK (reason IN ('repaired', 'healed', 'lost')),
    PRIMARY KEY (symbol, generation, ids, from_id, to_id, opened_at),
    CHECK ((ended_at IS NULL) = (reason IS NULL))
);

CREATE INDEX gaps_opened_at ON gaps (opened_at);

COMMENT ON TABLE gaps IS
    'Holes of the ledger: events hole_opened and hole_closed. A hole that is repaired in part ends, and its parts open anew.';
COMMENT ON COLUMN gaps.generation IS 'Onboard time of the listing in ms, as in symbols; 0 if no listing was seen.';
COMMENT ON COLUMN gaps.ids IS 'What the ids count: agg: aggTrades; trade: fills.';
COMMENT ON COLUMN gaps.from_id IS 'The first missing id; to_id is the last.';
COMMENT ON COLUMN gaps.before_time IS 'Exchange time of the neighbour before it; the missing trades lie between it and after_time.';
COMMENT ON COLUMN gaps.opened_at IS 'Exchange time of the tick at which it opened.';
COMMENT ON COLUMN gaps.ended_at IS 'Exchange time of the tick at which it ended; NULL while it is open.';
COMMENT ON COLUMN gaps.reason IS 'How it ended. repaired: the trades came; healed: official klines cover it; lost: given up.';

CREATE TABLE symbols (
    symbol       text        COLLATE "C" NOT NULL,
    generation   bigint      NOT NULL,
    price_scale  integer,
    qty_scale    integer,
    status       text        NOT NULL,
    listed_at    timestamptz,
    delisted_at  timestamptz,
    first_id     bigint,
    first_trade  timestamptz,
    last_seen    timestamptz NOT NULL,
    PRIMARY KEY (symbol, generation)
);

COMMENT ON TABLE symbols IS 'Symbols by generation: events listed, delisted and genesis.';
COMMENT ON COLUMN symbols.generation IS 'Onboard time of the listing in ms: a name that is listed again is another generation.';
COMMENT ON COLUMN symbols.price_scale IS 'Decimals of prices; NULL if not known. qty_scale: of quantities.';
COMMENT ON COLUMN symbols.status IS 'As the exchange writes it: TRADING, SETTLING, …';
COMMENT ON COLUMN symbols.listed_at IS 'Exchange time of the first event that says so.';
COMMENT ON COLUMN symbols.delisted_at IS 'Exchange time of the event that says so; NULL while it is traded.';
COMMENT ON COLUMN symbols.first_id IS 'The id of its first trade, seen at first_trade (genesis); NULL before it.';
COMMENT ON COLUMN symbols.last_seen IS 'Exchange time of the last event about it.';
