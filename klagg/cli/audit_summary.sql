-- The scoreboard of a range of days as `klagg audit --summary` shows it. Empty lists mean all; times are ms since 1970.

-- name: days
-- All symbols and intervals of a day together, the oldest day first.
SELECT
    (extract(epoch FROM day) * 1000)::bigint AS day, count(DISTINCT symbol) AS symbols,
    sum(expected)::bigint AS expected, sum(bars)::bigint AS bars, sum(complete)::bigint AS complete,
    sum(amended)::bigint AS amended, sum(gaps)::bigint AS gaps, sum(audited)::bigint AS audited,
    sum(exact)::bigint AS exact, sum(edge_shift)::bigint AS edge_shift, sum(exchange_hole)::bigint AS exchange_hole,
    sum(local_gap)::bigint AS local_gap, sum(late)::bigint AS late, sum(unexplained)::bigint AS unexplained,
    sum(open_findings)::bigint AS open_findings
FROM scoreboard
WHERE day >= timestamptz 'epoch' + %(from_ms)s * INTERVAL '1 millisecond'
    AND day < timestamptz 'epoch' + %(to_ms)s * INTERVAL '1 millisecond'
    AND "interval" = ANY(%(intervals)s::text[])
    AND (%(symbols)s::text[] = '{}' OR symbol = ANY(%(symbols)s::text[]))
GROUP BY scoreboard.day
ORDER BY scoreboard.day;

-- name: symbols
-- All days and intervals of a symbol together, the worst symbol first.
SELECT
    symbol, count(DISTINCT day) AS days,
    sum(expected)::bigint AS expected, sum(bars)::bigint AS bars, sum(complete)::bigint AS complete,
    sum(amended)::bigint AS amended, sum(gaps)::bigint AS gaps, sum(audited)::bigint AS audited,
    sum(exact)::bigint AS exact, sum(edge_shift)::bigint AS edge_shift, sum(exchange_hole)::bigint AS exchange_hole,
    sum(local_gap)::bigint AS local_gap, sum(late)::bigint AS late, sum(unexplained)::bigint AS unexplained,
    sum(open_findings)::bigint AS open_findings
FROM scoreboard
WHERE day >= timestamptz 'epoch' + %(from_ms)s * INTERVAL '1 millisecond'
    AND day < timestamptz 'epoch' + %(to_ms)s * INTERVAL '1 millisecond'
    AND "interval" = ANY(%(intervals)s::text[])
    AND (%(symbols)s::text[] = '{}' OR symbol = ANY(%(symbols)s::text[]))
GROUP BY symbol
ORDER BY
    sum(unexplained) DESC, sum(open_findings) DESC, sum(local_gap) DESC, sum(gaps) DESC,
    sum(expected) - sum(complete) DESC, symbol
LIMIT %(limit)s;

-- name: elsewhere
-- Open findings that are about no single symbol, and so in no row of the scoreboard.
SELECT count(*) AS findings
FROM findings
WHERE standing AND closed_at IS NULL AND symbol IS NULL;
