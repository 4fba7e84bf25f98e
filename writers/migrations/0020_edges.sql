-- Fills of an aggTrade that straddles a close, moved to where the exchange counts them (docs/explanation/edges.md).

ALTER TABLE amendments DROP CONSTRAINT amendments_why_check;
ALTER TABLE amendments ADD CONSTRAINT amendments_why_check
    CHECK (why IN ('amended', 'healed', 'revised', 'replaced', 'contradicted', 'fold', 'edge'));

COMMENT ON COLUMN amendments.why IS
    'amended: a higher version came; edge: it counts fills at a close where the exchange counts them, and its edge says which; healed: an official row took the place of a bar that may lack trades; revised: the same source of official rows says otherwise now; replaced: an official row took the place of one of another source (said_by, was); contradicted: another source (said_by) says became, and the row stays; fold: the bar and those of the interval said_by contradict each other.';
COMMENT ON COLUMN klines.edge IS
    'aggTrades with several fills within 100 ms of the close, id:first:last:time:price:quantity:maker each; in front of them the fills that were moved to where the exchange counts them, out to the next bar (>id:fills:quantity:price) or in from the one before (<).';

CREATE OR REPLACE VIEW klines_amended AS
SELECT
    symbol, "interval", open_time, epoch, revision, complete,
    CASE
        WHEN replaced_epoch IS NULL THEN 'the version before it was never stored'
        WHEN why IN ('revised', 'replaced') THEN 'another official row took its place'
        WHEN why = 'edge' THEN 'fills at a close count where the exchange counts them'
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
