-- Of the exact bars, those that are it since the exchange's split of an aggTrade at a close was adopted.

ALTER TABLE audits ADD COLUMN adopted bigint NOT NULL DEFAULT 0;

COMMENT ON COLUMN audits.adopted IS
    'Of the exact bars, those that count fills at a close where the exchange does, since its split was adopted.';
COMMENT ON COLUMN audits.different IS
    'The bars that are not exact, or exact since a split was adopted: [[from, until, verdict, place], …] in ms; place is the open time by which their finding is named, 0 without one.';

CREATE OR REPLACE VIEW scoreboard AS
SELECT
    symbol,
    "interval",
    day,
    sum(expected)::bigint AS expected,
    sum(bars)::bigint AS bars,
    sum(complete)::bigint AS complete,
    sum(amended)::bigint AS amended,
    greatest(sum(expected) - sum(bars), 0)::bigint AS missing,
    sum(audited)::bigint AS audited,
    sum(exact)::bigint AS exact,
    sum(edge_shift)::bigint AS edge_shift,
    sum(exchange_gap)::bigint AS exchange_gap,
    sum(local_gap)::bigint AS local_gap,
    sum(late)::bigint AS late,
    sum(unexplained)::bigint AS unexplained,
    sum(open_findings)::bigint AS open_findings,
    max(counted_at) AS counted_at,
    max(audited_at) AS audited_at,
    sum(official)::bigint AS official,
    sum(adopted)::bigint AS adopted
FROM (
    SELECT
        symbol, "interval", day, expected, bars, complete, amended, official, 0::bigint AS audited, 0::bigint AS exact,
        0::bigint AS edge_shift, 0::bigint AS exchange_gap, 0::bigint AS local_gap, 0::bigint AS late,
        0::bigint AS unexplained, 0::bigint AS open_findings, counted_at, NULL::timestamptz AS audited_at,
        0::bigint AS adopted
    FROM symbol_days
    UNION ALL
    SELECT
        symbol, "interval", day, 0, 0, 0, 0, 0, bars, exact, edge_shift, exchange_gap, local_gap, late, unexplained, 0,
        NULL, audited_at, adopted
    FROM audits
    UNION ALL
    SELECT
        symbol, coalesce("interval", '1m'), date_trunc('day', coalesce(open_time, said_at), 'UTC'), 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 1, NULL, NULL, 0
    FROM findings
    WHERE standing AND closed_at IS NULL AND symbol IS NOT NULL AND coalesce(open_time, said_at) IS NOT NULL
) AS told
GROUP BY symbol, "interval", day;

COMMENT ON COLUMN scoreboard.adopted IS
    'Of the exact bars, those that count fills at a close where the exchange does, since its split was adopted.';
