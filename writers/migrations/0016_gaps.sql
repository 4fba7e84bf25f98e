-- Contract version 2 has one word for missing ids, gap: kinds of findings, columns and comments follow. A bar that is not
-- there is a missing bar, and no gap. Keys do not change, so a finding that stands is settled under its new kind too.

UPDATE findings SET kind = CASE kind WHEN 'GAP' THEN 'MISSING_KLINE' ELSE 'EXCHANGE_GAP' END
WHERE kind IN ('GAP', 'EXCHANGE_HOLE');

ALTER TABLE audits RENAME COLUMN exchange_hole TO exchange_gap;

UPDATE audits SET different = (
    SELECT jsonb_agg(
        CASE WHEN bars.span ->> 2 = 'EXCHANGE_HOLE' THEN jsonb_set(bars.span, '{2}', '"EXCHANGE_GAP"') ELSE bars.span END
        ORDER BY bars.place
    )
    FROM jsonb_array_elements(different) WITH ORDINALITY AS bars (span, place)
)
WHERE different @> '[["EXCHANGE_HOLE"]]';

ALTER VIEW scoreboard RENAME COLUMN exchange_hole TO exchange_gap;
ALTER VIEW scoreboard RENAME COLUMN gaps TO missing;

COMMENT ON COLUMN audits.exchange_gap IS 'The exchange has no row, or a flat one, where trades were seen.';
COMMENT ON COLUMN scoreboard.missing IS 'Bars that should be there and are not.';
COMMENT ON COLUMN scoreboard.exact IS
    'Of them equal; edge_shift, exchange_gap, local_gap, late, unexplained: different, by what explains it.';
COMMENT ON TABLE gaps IS
    'Missing ids: events gap_opened and gap_closed. A gap that is repaired in part ends, and its parts open anew.';
COMMENT ON COLUMN gaps.reason IS
    'How the gap ended. repaired: the trades came; healed: official klines cover it; lost: given up; NULL while it is open.';
