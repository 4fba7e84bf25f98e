-- What the exchange auditor found of each symbol, interval and UTC day.

CREATE TABLE audits (
    symbol         text        COLLATE "C" NOT NULL,
    day            timestamptz NOT NULL,
    "interval"     text        COLLATE "C" NOT NULL,
    bars           bigint      NOT NULL,
    exact          bigint      NOT NULL,
    edge_shift     bigint      NOT NULL,
    exchange_hole  bigint      NOT NULL,
    local_gap      bigint      NOT NULL,
    late           bigint      NOT NULL,
    unexplained    bigint      NOT NULL,
    audited_at     timestamptz NOT NULL,
    PRIMARY KEY (symbol, day, "interval")
);

COMMENT ON TABLE audits IS 'Bars that were compared with the exchange''s own, by symbol, UTC day and interval, and what came out.';
