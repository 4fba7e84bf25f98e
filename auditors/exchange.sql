-- What the auditor of the exchange reads of the klines, and its tallies. Times are ms since 1970.

-- name: klines
-- The newest versions of one series' finals with open times in [from, to), as text at the symbol's scale.
SELECT
    symbol,
    "interval",
    (extract(epoch FROM open_time) * 1000)::bigint AS open_time,
    (extract(epoch FROM close_time) * 1000)::bigint AS close_time,
    open::text AS open,
    high::text AS high,
    low::text AS low,
    close::text AS close,
    volume::text AS volume,
    quote_volume::text AS quote_volume,
    trades,
    taker_buy_volume::text AS taker_buy_volume,
    taker_buy_quote_volume::text AS taker_buy_quote_volume,
    first_agg_id,
    last_agg_id,
    first_trade_id,
    last_trade_id,
    complete::integer AS complete,
    official::integer AS official,
    epoch,
    revision,
    source,
    edge
FROM klines
WHERE
    symbol = %(symbol)s
    AND "interval" = %(interval)s
    AND open_time >= timestamptz 'epoch' + %(from_ms)s * interval '1 millisecond'
    AND open_time < timestamptz 'epoch' + %(to_ms)s * interval '1 millisecond'
    AND revision > 0;

-- name: newest_minute
-- The open time of the newest final minute of any symbol.
SELECT (extract(epoch FROM max(open_time)) * 1000)::bigint AS newest_ms
FROM klines
WHERE
    "interval" = '1m'
    AND revision > 0
    AND open_time >= timestamptz 'epoch' + %(since_ms)s * interval '1 millisecond';

-- name: first_bars
-- Of each wanted series the first final that closes at or after a time. The longest bar is a month.
SELECT
    wanted.symbol,
    wanted."interval",
    (extract(epoch FROM found.open_time) * 1000)::bigint AS open_ms
FROM unnest(%(symbols)s::text[], %(intervals)s::text[], %(since_ms)s::bigint[]) AS wanted (symbol, "interval", since_ms)
CROSS JOIN LATERAL (
    SELECT klines.open_time
    FROM klines
    WHERE
        klines.symbol = wanted.symbol
        AND klines."interval" = wanted."interval"
        AND klines.open_time >= timestamptz 'epoch' + wanted.since_ms * interval '1 millisecond' - interval '31 days'
        AND klines.close_time >= timestamptz 'epoch' + wanted.since_ms * interval '1 millisecond'
        AND klines.revision > 0
    ORDER BY klines.open_time
    LIMIT 1
) AS found;

-- name: amended
-- Bars that were amended in their values since a time by the clock of this database, and in its last three hours, the
-- first ones; with the version that came. The condition on the values is that of the index.
SELECT
    symbol,
    "interval",
    (extract(epoch FROM open_time) * 1000)::bigint AS open_ms,
    epoch,
    revision,
    complete::integer AS complete,
    official::integer AS official,
    (extract(epoch FROM stored_at) * 1000)::bigint AS stored_ms
FROM amendments
WHERE
    "interval" = ANY(%(intervals)s::text[])
    AND open_time >= timestamptz 'epoch' + %(oldest_ms)s * interval '1 millisecond'
    AND (replaced_epoch IS NULL OR was <> '{}' OR became <> '{}')
    AND replaced_epoch IS NOT NULL
    AND stored_at >= greatest(timestamptz 'epoch' + %(since_ms)s * interval '1 millisecond', now() - interval '3 hours')
ORDER BY stored_at
LIMIT %(rows)s;

-- name: audits
-- The tallies of the days since a time.
SELECT symbol, "interval", ranges, different
FROM audits
WHERE day >= timestamptz 'epoch' + %(since_ms)s * interval '1 millisecond';

-- name: audit_of_day
-- One tally; it is this transaction's until its end.
SELECT ranges, different
FROM audits
WHERE
    symbol = %(symbol)s
    AND day = timestamptz 'epoch' + %(day_ms)s * interval '1 millisecond'
    AND "interval" = %(interval)s
FOR UPDATE;

-- name: put_audit
INSERT INTO audits (
    symbol, day, "interval", bars, exact, edge_shift, exchange_gap, local_gap, late, unexplained, audited_at, ranges,
    different, adopted
)
VALUES (
    %(symbol)s,
    timestamptz 'epoch' + %(day_ms)s * interval '1 millisecond',
    %(interval)s,
    %(bars)s,
    %(exact)s,
    %(edge_shift)s,
    %(exchange_gap)s,
    %(local_gap)s,
    %(late)s,
    %(unexplained)s,
    timestamptz 'epoch' + %(audited_ms)s * interval '1 millisecond',
    %(ranges)s::jsonb,
    %(different)s::jsonb,
    %(adopted)s
)
ON CONFLICT (symbol, day, "interval") DO UPDATE SET
    bars = excluded.bars,
    exact = excluded.exact,
    edge_shift = excluded.edge_shift,
    exchange_gap = excluded.exchange_gap,
    local_gap = excluded.local_gap,
    late = excluded.late,
    unexplained = excluded.unexplained,
    audited_at = excluded.audited_at,
    ranges = excluded.ranges,
    different = excluded.different,
    adopted = excluded.adopted;

-- name: standing
-- Which of these findings are not settled.
SELECT id FROM findings WHERE id = ANY(%(ids)s::text[]) AND standing AND closed_at IS NULL;
