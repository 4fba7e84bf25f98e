-- What the auditor of the exchange found, by symbol, UTC day and interval: how many of the bars were compared with the
-- exchange's own klines, and what they are. A bar that is looked at again counts once, as what it was last.

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
    ranges         jsonb       NOT NULL DEFAULT '[]',
    different      jsonb       NOT NULL DEFAULT '[]',
    PRIMARY KEY (symbol, day, "interval")
);

COMMENT ON TABLE audits IS
    'Finals compared with the exchange''s own klines by symbol, UTC day of the open time and interval (klagg-auditor-exchange).';
COMMENT ON COLUMN audits.bars IS 'Bars compared: the sum of the counts behind it.';
COMMENT ON COLUMN audits.exact IS 'All nine values are equal to the last digit.';
COMMENT ON COLUMN audits.edge_shift IS 'Fills at a close, which the exchange counts in the next bar; the evidence proves it.';
COMMENT ON COLUMN audits.exchange_hole IS 'The exchange has no row, or a flat one, where trades were seen.';
COMMENT ON COLUMN audits.local_gap IS 'There is no bar here, or one that is not complete.';
COMMENT ON COLUMN audits.late IS 'The exchange may not be done with the bar yet: it is looked at again.';
COMMENT ON COLUMN audits.unexplained IS 'Different, and nothing explains it.';
COMMENT ON COLUMN audits.audited_at IS 'Exchange time of the last look.';
COMMENT ON COLUMN audits.ranges IS 'Which open times were compared: [[from, until], …] in ms, until excluded.';
COMMENT ON COLUMN audits.different IS
    'The bars that are not exact: [[from, until, verdict, place], …] in ms; place is the open time by which their finding is named, 0 without one.';
