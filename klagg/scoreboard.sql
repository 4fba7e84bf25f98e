-- The view `scoreboard` (writers/migrations/0014_scoreboard.sql, 0016_gaps.sql and 0021_adopted.sql) summed up.

-- name: board
-- Days in [first, end), the newest first, with all their symbols and intervals together; then symbols, the worst first,
-- with all these days and intervals together. An empty list of symbols means all.
SELECT
    (extract(epoch FROM day) * 1000)::bigint AS day, symbol,
    count(DISTINCT day) AS days, count(DISTINCT symbol) AS symbols,
    sum(expected)::bigint AS expected, sum(bars)::bigint AS bars, sum(complete)::bigint AS complete,
    sum(official)::bigint AS official, sum(amended)::bigint AS amended, sum(missing)::bigint AS missing, sum(audited)::bigint AS audited,
    sum(exact)::bigint AS exact, sum(adopted)::bigint AS adopted, sum(edge_shift)::bigint AS edge_shift, sum(exchange_gap)::bigint AS exchange_gap,
    sum(local_gap)::bigint AS local_gap, sum(late)::bigint AS late, sum(unexplained)::bigint AS unexplained,
    sum(open_findings)::bigint AS open_findings,
    (extract(epoch FROM max(counted_at)) * 1000)::bigint AS counted_at,
    (extract(epoch FROM max(audited_at)) * 1000)::bigint AS audited_at
FROM scoreboard
WHERE "interval" = ANY(%(intervals)s::text[])
    AND day >= timestamptz 'epoch' + %(first_ms)s * INTERVAL '1 millisecond'
    AND day < timestamptz 'epoch' + %(end_ms)s * INTERVAL '1 millisecond'
    AND (%(symbols)s::text[] = '{}' OR symbol = ANY(%(symbols)s::text[]))
GROUP BY GROUPING SETS ((scoreboard.day), (symbol))
ORDER BY
    scoreboard.day DESC NULLS LAST,
    sum(unexplained) DESC, sum(open_findings) DESC, sum(local_gap) DESC, sum(missing) DESC,
    sum(expected) - sum(complete) - sum(official) DESC, symbol;
