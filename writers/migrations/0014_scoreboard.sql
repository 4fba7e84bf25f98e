-- Completeness and truth of each symbol and UTC day, side by side: what is there (symbol_days), what the exchange's own
-- klines say of it (audits), and which findings about it are open.

CREATE INDEX audits_day ON audits ("interval", day);

-- Three lists one below the other, and not joined: a condition on interval, day or symbol then reaches all of them.
CREATE VIEW scoreboard AS
SELECT
    symbol,
    "interval",
    day,
    sum(expected)::bigint AS expected,
    sum(bars)::bigint AS bars,
    sum(complete)::bigint AS complete,
    sum(amended)::bigint AS amended,
    greatest(sum(expected) - sum(bars), 0)::bigint AS gaps,
    sum(audited)::bigint AS audited,
    sum(exact)::bigint AS exact,
    sum(edge_shift)::bigint AS edge_shift,
    sum(exchange_hole)::bigint AS exchange_hole,
    sum(local_gap)::bigint AS local_gap,
    sum(late)::bigint AS late,
    sum(unexplained)::bigint AS unexplained,
    sum(open_findings)::bigint AS open_findings,
    max(counted_at) AS counted_at,
    max(audited_at) AS audited_at
FROM (
    SELECT
        symbol, "interval", day, expected, bars, complete, amended, 0::bigint AS audited, 0::bigint AS exact,
        0::bigint AS edge_shift, 0::bigint AS exchange_hole, 0::bigint AS local_gap, 0::bigint AS late,
        0::bigint AS unexplained, 0::bigint AS open_findings, counted_at, NULL::timestamptz AS audited_at
    FROM symbol_days
    UNION ALL
    SELECT
        symbol, "interval", day, 0, 0, 0, 0, bars, exact, edge_shift, exchange_hole, local_gap, late, unexplained, 0,
        NULL, audited_at
    FROM audits
    UNION ALL
    SELECT
        symbol, coalesce("interval", '1m'), date_trunc('day', coalesce(open_time, said_at), 'UTC'), 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 1, NULL, NULL
    FROM findings
    WHERE standing AND closed_at IS NULL AND symbol IS NOT NULL AND coalesce(open_time, said_at) IS NOT NULL
) AS told
GROUP BY symbol, "interval", day;

COMMENT ON VIEW scoreboard IS
    'Completeness and truth by symbol, interval and UTC day. Fast with conditions on interval and day, also for all symbols.';
COMMENT ON COLUMN scoreboard.expected IS 'How many bars should be there, as of counted_at; bars: how many finals are.';
COMMENT ON COLUMN scoreboard.gaps IS 'Bars that should be there and are not.';
COMMENT ON COLUMN scoreboard.audited IS 'Bars that were compared with the exchange''s own, at audited_at the last time.';
COMMENT ON COLUMN scoreboard.exact IS
    'Of them equal; edge_shift, exchange_hole, local_gap, late, unexplained: different, by what explains it.';
COMMENT ON COLUMN scoreboard.open_findings IS
    'Findings about bars of that day that stand; those that name no interval count as 1m, those that name no symbol are not in it.';
