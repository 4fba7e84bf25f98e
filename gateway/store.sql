-- What the gateway asks the database. It only reads; times go in and out as ms, decimals come out as text.

-- name: klines_from
-- The first bars of a series that open between two times, both included.
SELECT
    symbol, "interval",
    (extract(epoch FROM open_time) * 1000)::bigint AS open_time,
    (extract(epoch FROM close_time) * 1000)::bigint AS close_time,
    open::text, high::text, low::text, close::text, volume::text, quote_volume::text, trades,
    taker_buy_volume::text, taker_buy_quote_volume::text,
    first_agg_id, last_agg_id, first_trade_id, last_trade_id, complete::integer,
    official::integer, epoch, revision, source, edge
FROM klines
WHERE symbol = %(symbol)s
    AND "interval" = %(interval)s
    AND klines.open_time >= timestamptz 'epoch' + %(first_ms)s * INTERVAL '1 millisecond'
    AND klines.open_time <= timestamptz 'epoch' + %(last_ms)s * INTERVAL '1 millisecond'
ORDER BY klines.open_time
LIMIT %(limit)s;

-- name: klines_until
-- The last bars of a series that open until then, newest first.
SELECT
    symbol, "interval",
    (extract(epoch FROM open_time) * 1000)::bigint AS open_time,
    (extract(epoch FROM close_time) * 1000)::bigint AS close_time,
    open::text, high::text, low::text, close::text, volume::text, quote_volume::text, trades,
    taker_buy_volume::text, taker_buy_quote_volume::text,
    first_agg_id, last_agg_id, first_trade_id, last_trade_id, complete::integer,
    official::integer, epoch, revision, source, edge
FROM klines
WHERE symbol = %(symbol)s
    AND "interval" = %(interval)s
    AND klines.open_time <= timestamptz 'epoch' + %(last_ms)s * INTERVAL '1 millisecond'
ORDER BY klines.open_time DESC
LIMIT %(limit)s;

-- name: minutes_since
-- The minutes of all symbols that open at a time or later.
SELECT
    symbol, "interval",
    (extract(epoch FROM open_time) * 1000)::bigint AS open_time,
    (extract(epoch FROM close_time) * 1000)::bigint AS close_time,
    open::text, high::text, low::text, close::text, volume::text, quote_volume::text, trades,
    taker_buy_volume::text, taker_buy_quote_volume::text,
    first_agg_id, last_agg_id, first_trade_id, last_trade_id, complete::integer,
    official::integer, epoch, revision, source, edge
FROM klines_1m
WHERE klines_1m.open_time >= timestamptz 'epoch' + %(first_ms)s * INTERVAL '1 millisecond'
ORDER BY symbol, klines_1m.open_time;

-- name: days
-- What the minutes between two times (the second excluded) add up to, by symbol. Prices and ids are those of minutes with
-- trades: one without has the price before it.
SELECT
    symbol,
    (extract(epoch FROM min(open_time)) * 1000)::bigint AS open_time,
    (first(open, open_time) FILTER (WHERE trades > 0))::text AS open,
    (max(high) FILTER (WHERE trades > 0))::text AS high,
    (min(low) FILTER (WHERE trades > 0))::text AS low,
    (last(close, open_time))::text AS close,
    sum(volume)::text AS volume,
    sum(quote_volume)::text AS quote_volume,
    sum(trades)::bigint AS trades,
    first(first_trade_id, open_time) FILTER (WHERE trades > 0) AS first_id,
    last(last_trade_id, open_time) FILTER (WHERE trades > 0) AS last_id,
    count(*) AS minutes,
    count(*) FILTER (WHERE complete OR official) AS proven
FROM klines_1m
WHERE klines_1m.open_time >= timestamptz 'epoch' + %(first_ms)s * INTERVAL '1 millisecond'
    AND klines_1m.open_time < timestamptz 'epoch' + %(until_ms)s * INTERVAL '1 millisecond'
GROUP BY symbol;

-- name: digits
-- How many digits the first bars of a series from a time on have before the dot and behind it; how many bars that are,
-- and when the last of them opens.
SELECT
    count(*) AS bars,
    (extract(epoch FROM max(open_time)) * 1000)::bigint AS last_ms,
    length(trunc(max(greatest(open, high, low, close)))::text) AS price_whole,
    max(greatest(scale(open), scale(high), scale(low), scale(close))) AS price_fraction,
    length(trunc(max(greatest(volume, taker_buy_volume)))::text) AS volume_whole,
    max(greatest(scale(volume), scale(taker_buy_volume))) AS volume_fraction,
    length(trunc(max(greatest(quote_volume, taker_buy_quote_volume)))::text) AS quote_whole,
    max(greatest(scale(quote_volume), scale(taker_buy_quote_volume))) AS quote_fraction
FROM (
    SELECT open_time, open, high, low, close, volume, taker_buy_volume, quote_volume, taker_buy_quote_volume
    FROM klines
    WHERE symbol = %(symbol)s
        AND "interval" = %(interval)s
        AND klines.open_time >= timestamptz 'epoch' + %(first_ms)s * INTERVAL '1 millisecond'
        AND klines.open_time <= timestamptz 'epoch' + %(last_ms)s * INTERVAL '1 millisecond'
    ORDER BY klines.open_time
    LIMIT %(limit)s
) AS bars;

-- name: symbols
-- The names in the table, found by jumping from one to the next in the primary key. Every symbol has minutes.
WITH RECURSIVE found AS (
    SELECT (SELECT symbol FROM klines_minutes ORDER BY symbol LIMIT 1) AS symbol
    UNION ALL
    SELECT (SELECT symbol FROM klines_minutes AS next WHERE next.symbol > found.symbol ORDER BY symbol LIMIT 1)
    FROM found WHERE found.symbol IS NOT NULL
)
SELECT symbol FROM found WHERE symbol IS NOT NULL;

-- name: gaps
-- Gaps of the ledger, the newest first.
SELECT
    symbol, generation, ids, from_id, to_id,
    (extract(epoch FROM before_time) * 1000)::bigint AS before_time,
    (extract(epoch FROM after_time) * 1000)::bigint AS after_time,
    (extract(epoch FROM opened_at) * 1000)::bigint AS opened_at,
    (extract(epoch FROM ended_at) * 1000)::bigint AS ended_at,
    reason
FROM gaps
WHERE (%(symbol)s::text IS NULL OR symbol = %(symbol)s)
    AND (NOT %(open_only)s OR gaps.ended_at IS NULL)
ORDER BY gaps.opened_at DESC, symbol, from_id
LIMIT %(limit)s;

-- name: findings
-- Findings, the newest first.
SELECT
    id, shard, kind, severity, symbol, "interval", standing,
    (extract(epoch FROM open_time) * 1000)::bigint AS open_time,
    (extract(epoch FROM said_at) * 1000)::bigint AS said_at,
    (extract(epoch FROM closed_at) * 1000)::bigint AS closed_at,
    evidence #>> '{}' AS evidence, closed_by #>> '{}' AS closed_by
FROM findings
WHERE (%(symbol)s::text IS NULL OR symbol = %(symbol)s)
    AND (%(severity)s::text IS NULL OR severity = %(severity)s)
    AND (NOT %(open_only)s OR (standing AND findings.closed_at IS NULL))
ORDER BY findings.said_at DESC NULLS LAST, id DESC
LIMIT %(limit)s;
