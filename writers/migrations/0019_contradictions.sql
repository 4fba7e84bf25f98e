-- Official rows that contradict each other. What two sources of the exchange's history say of one bar, and which of the
-- two has the word, stands in amendments until it is settled; so long no flag calls the bar whole.

ALTER TABLE amendments
    ADD COLUMN why        text        NOT NULL DEFAULT 'amended'
        CHECK (why IN ('amended', 'healed', 'revised', 'replaced', 'contradicted', 'fold')),
    ADD COLUMN said_by    text        COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN settled    text        CHECK (settled IN ('agreed', 'person')),
    ADD COLUMN settled_at timestamptz;

-- Rows of klagg backfill are the only ones of epoch 0.
UPDATE amendments SET why = 'healed', said_by = format('epoch %s', replaced_epoch) WHERE epoch = 0;

ALTER TABLE amendments DROP CONSTRAINT amendments_pkey;
ALTER TABLE amendments
    ADD PRIMARY KEY (symbol, "interval", open_time, epoch, revision, complete, official, why, said_by);

COMMENT ON TABLE amendments IS
    'Every version of a kline beyond its first final that was stored, and what it replaced; and what contradicts a row of the exchange''s history. The row in klines is the last.';
COMMENT ON COLUMN amendments.why IS
    'amended: a higher version came; healed: an official row took the place of a bar that may lack trades; revised: the same source of official rows says otherwise now; replaced: an official row took the place of one of another source (said_by, was); contradicted: another source (said_by) says became, and the row stays; fold: the bar and those of the interval said_by contradict each other.';
COMMENT ON COLUMN amendments.said_by IS
    'The other side of a contradiction: the name of a dump file, REST and its month or year, or an interval. Of healed: the epoch of the bar that was replaced. Empty otherwise.';
COMMENT ON COLUMN amendments.settled IS
    'How a contradiction ended. agreed: the sources say the same since; person: klagg backfill --settle; NULL while it stands.';
COMMENT ON COLUMN amendments.was IS
    'The values of the replaced version that differ, by column name of klines; {} if only the version changed (a confirmation). Of a contradiction all nine values: of the row that was there, or of the fold.';
COMMENT ON COLUMN amendments.became IS
    'The same columns in the version that came, or as the other side of a contradiction says. Decimals keep every digit: ->> gives the text.';

-- Contradictions that stand: few, and asked for by every batch that klagg backfill stores over other rows.
CREATE INDEX amendments_contradicted ON amendments (symbol, "interval", open_time)
WHERE settled_at IS NULL AND why IN ('replaced', 'contradicted', 'fold');

-- Until when a source of history was read at most: its rows may stand in klines although it is read anew.
ALTER TABLE backfilled
    ADD COLUMN said_from  timestamptz,
    ADD COLUMN said_until timestamptz,
    ADD COLUMN bad        jsonb       NOT NULL DEFAULT '[]',
    ADD COLUMN bad_rows   bigint      NOT NULL DEFAULT 0;
UPDATE backfilled SET said_from = loaded_from, said_until = loaded_until;

COMMENT ON COLUMN backfilled.said_from IS
    'With said_until: the bars that this source was ever read for; beyond loaded_until they may be of an older state of it.';
COMMENT ON COLUMN backfilled.bad IS
    'The first of its rows that cannot be klines and were left out: [{"line", "open_time", "why"}, …], open_time in ms of the bar that lacks.';
COMMENT ON COLUMN backfilled.bad_rows IS 'How many of its rows cannot be klines and were left out.';

-- What an amendment of klagg's own bars is does not change: contradictions among official rows are not among them.
CREATE OR REPLACE VIEW klines_amended AS
SELECT
    symbol, "interval", open_time, epoch, revision, complete,
    CASE
        WHEN replaced_epoch IS NULL THEN 'the version before it was never stored'
        WHEN why IN ('revised', 'replaced') THEN 'another official row took its place'
        WHEN became - 'source' = '{}' AND became ->> 'source' = 'mixed' THEN
            'a row of the exchange with the same values stands for what was missing'
        WHEN became ? 'source' AND became ->> 'source' <> 'own' THEN 'official rows took the place of missing trades'
        WHEN became ? 'source' THEN 'trades took the place of official rows'
        WHEN (became ->> 'trades')::bigint > (was ->> 'trades')::bigint THEN
            format('%s trades came late', (became ->> 'trades')::bigint - (was ->> 'trades')::bigint)
        WHEN (became ->> 'trades')::bigint < (was ->> 'trades')::bigint THEN
            format('%s trades fell away', (was ->> 'trades')::bigint - (became ->> 'trades')::bigint)
        WHEN epoch > replaced_epoch THEN 'a later run of the aggregator saw other trades'
        WHEN became ? 'close' AND NOT became ? 'volume' THEN 'the close that it carries changed'
        ELSE 'its values changed'
    END AS why,
    source, replaced_epoch, replaced_revision, replaced_complete, was, became, stored_at, official, replaced_official
FROM amendments
WHERE (replaced_epoch IS NULL OR was <> '{}' OR became <> '{}') AND why NOT IN ('contradicted', 'fold');

CREATE VIEW klines_contradicted AS
SELECT symbol, "interval", open_time, why, said_by, was, became, stored_at
FROM amendments
WHERE settled_at IS NULL AND why IN ('replaced', 'contradicted', 'fold');

COMMENT ON VIEW klines_contradicted IS
    'Bars of the exchange''s history that two of its sources tell differently: neither complete nor official until it is settled.';
