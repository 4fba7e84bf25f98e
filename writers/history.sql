-- The tables `symbols`, `gaps` and `findings` as writer-snapshot sees them. Lists are arrays, one for each column; times
-- are ms since 1970 (exchange time).

-- name: lock
-- Who keeps the history reads rows, changes them and writes them back: two processes take turns.
SELECT pg_advisory_xact_lock(hashtextextended('klagg.history', 0));

-- name: known_symbols
SELECT
    symbol,
    generation,
    price_scale,
    qty_scale,
    status,
    (extract(epoch FROM listed_at) * 1000)::bigint AS listed_ms,
    (extract(epoch FROM delisted_at) * 1000)::bigint AS delisted_ms,
    first_id,
    (extract(epoch FROM first_trade) * 1000)::bigint AS first_trade_ms,
    (extract(epoch FROM last_seen) * 1000)::bigint AS last_seen_ms
FROM symbols
WHERE symbol = ANY(%(symbols)s::text[]);

-- name: known_gaps
SELECT
    gaps.symbol,
    gaps.generation,
    gaps.ids,
    gaps.from_id,
    gaps.to_id,
    (extract(epoch FROM gaps.before_time) * 1000)::bigint AS before_ms,
    (extract(epoch FROM gaps.after_time) * 1000)::bigint AS after_ms,
    (extract(epoch FROM gaps.opened_at) * 1000)::bigint AS opened_ms,
    (extract(epoch FROM gaps.ended_at) * 1000)::bigint AS ended_ms,
    gaps.reason
FROM gaps
INNER JOIN (
    SELECT DISTINCT symbol COLLATE "C" AS symbol, from_id, to_id
    FROM unnest(%(symbol)s::text[], %(from_id)s::bigint[], %(to_id)s::bigint[]) AS told (symbol, from_id, to_id)
) AS told
    ON gaps.symbol = told.symbol AND gaps.from_id = told.from_id AND gaps.to_id = told.to_id;

-- name: put_symbols
INSERT INTO symbols (
    symbol, generation, price_scale, qty_scale, status, listed_at, delisted_at, first_id, first_trade, last_seen
)
SELECT
    symbol,
    generation,
    price_scale,
    qty_scale,
    status,
    timestamptz 'epoch' + listed_ms * interval '1 millisecond',
    timestamptz 'epoch' + delisted_ms * interval '1 millisecond',
    first_id,
    timestamptz 'epoch' + first_trade_ms * interval '1 millisecond',
    timestamptz 'epoch' + last_seen_ms * interval '1 millisecond'
FROM
    unnest(
        %(symbol)s::text[], %(generation)s::bigint[], %(price_scale)s::integer[], %(qty_scale)s::integer[],
        %(status)s::text[], %(listed_ms)s::bigint[], %(delisted_ms)s::bigint[], %(first_id)s::bigint[],
        %(first_trade_ms)s::bigint[], %(last_seen_ms)s::bigint[]
    ) AS told (
        symbol, generation, price_scale, qty_scale, status, listed_ms, delisted_ms, first_id, first_trade_ms, last_seen_ms
    )
ON CONFLICT (symbol, generation) DO UPDATE SET
    price_scale = excluded.price_scale,
    qty_scale   = excluded.qty_scale,
    status      = excluded.status,
    listed_at   = excluded.listed_at,
    delisted_at = excluded.delisted_at,
    first_id    = excluded.first_id,
    first_trade = excluded.first_trade,
    last_seen   = excluded.last_seen;

-- name: put_gaps
INSERT INTO gaps (
    symbol, generation, ids, from_id, to_id, before_time, after_time, opened_at, ended_at, reason
)
SELECT
    symbol,
    generation,
    ids,
    from_id,
    to_id,
    timestamptz 'epoch' + before_ms * interval '1 millisecond',
    timestamptz 'epoch' + after_ms * interval '1 millisecond',
    timestamptz 'epoch' + opened_ms * interval '1 millisecond',
    timestamptz 'epoch' + ended_ms * interval '1 millisecond',
    reason
FROM
    unnest(
        %(symbol)s::text[], %(generation)s::bigint[], %(ids)s::text[], %(from_id)s::bigint[], %(to_id)s::bigint[],
        %(before_ms)s::bigint[], %(after_ms)s::bigint[], %(opened_ms)s::bigint[], %(ended_ms)s::bigint[],
        %(reason)s::text[]
    ) AS told (symbol, generation, ids, from_id, to_id, before_ms, after_ms, opened_ms, ended_ms, reason)
ON CONFLICT (symbol, generation, ids, from_id, to_id, opened_at) DO UPDATE SET
    ended_at = excluded.ended_at,
    reason   = excluded.reason;

-- name: delete_gaps
DELETE FROM gaps
USING
    unnest(
        %(symbol)s::text[], %(generation)s::bigint[], %(ids)s::text[], %(from_id)s::bigint[], %(to_id)s::bigint[],
        %(opened_ms)s::bigint[]
    ) AS told (symbol, generation, ids, from_id, to_id, opened_ms)
WHERE
    gaps.symbol = told.symbol
    AND gaps.generation = told.generation
    AND gaps.ids = told.ids
    AND gaps.from_id = told.from_id
    AND gaps.to_id = told.to_id
    AND gaps.opened_at = timestamptz 'epoch' + told.opened_ms * interval '1 millisecond';

-- name: put_notices
-- A finding that was delivered before is there already, as it was said.
INSERT INTO findings (id, shard, kind, severity, symbol, "interval", open_time, writer, said_at, evidence)
SELECT
    id,
    shard,
    kind,
    severity,
    symbol,
    "interval",
    timestamptz 'epoch' + open_ms * interval '1 millisecond',
    writer,
    timestamptz 'epoch' + said_ms * interval '1 millisecond',
    evidence::jsonb
FROM
    unnest(
        %(id)s::text[], %(shard)s::integer[], %(kind)s::text[], %(severity)s::text[], %(symbol)s::text[],
        %(interval)s::text[], %(open_ms)s::bigint[], %(writer)s::text[], %(said_ms)s::bigint[], %(evidence)s::text[]
    ) AS told (id, shard, kind, severity, symbol, "interval", open_ms, writer, said_ms, evidence)
ON CONFLICT (id) DO NOTHING;

-- name: known_findings
SELECT
    id,
    shard,
    kind,
    severity,
    symbol,
    "interval",
    (extract(epoch FROM open_time) * 1000)::bigint AS open_ms,
    writer,
    (extract(epoch FROM said_at) * 1000)::bigint AS said_ms,
    evidence::text AS evidence,
    standing,
    (extract(epoch FROM closed_at) * 1000)::bigint AS closed_ms,
    closed_by::text AS closed_by,
    coalesce(said_entry, '') AS said_entry,
    coalesce(closed_entry, '') AS closed_entry
FROM findings
WHERE id = ANY(%(ids)s::text[]) AND standing;

-- name: put_findings
INSERT INTO findings (
    id, shard, kind, severity, symbol, "interval", open_time, writer, said_at, evidence, standing, closed_at, closed_by,
    said_entry, closed_entry
)
SELECT
    id,
    shard,
    kind,
    severity,
    symbol,
    "interval",
    timestamptz 'epoch' + open_ms * interval '1 millisecond',
    writer,
    timestamptz 'epoch' + said_ms * interval '1 millisecond',
    evidence::jsonb,
    standing,
    timestamptz 'epoch' + closed_ms * interval '1 millisecond',
    closed_by::jsonb,
    nullif(said_entry, ''),
    nullif(closed_entry, '')
FROM
    unnest(
        %(id)s::text[], %(shard)s::integer[], %(kind)s::text[], %(severity)s::text[], %(symbol)s::text[],
        %(interval)s::text[], %(open_ms)s::bigint[], %(writer)s::text[], %(said_ms)s::bigint[], %(evidence)s::text[],
        %(standing)s::boolean[], %(closed_ms)s::bigint[], %(closed_by)s::text[], %(said_entry)s::text[],
        %(closed_entry)s::text[]
    ) AS told (
        id, shard, kind, severity, symbol, "interval", open_ms, writer, said_ms, evidence, standing, closed_ms,
        closed_by, said_entry, closed_entry
    )
ON CONFLICT (id) DO UPDATE SET
    kind         = excluded.kind,
    severity     = excluded.severity,
    symbol       = excluded.symbol,
    "interval"   = excluded."interval",
    open_time    = excluded.open_time,
    writer       = excluded.writer,
    said_at      = excluded.said_at,
    evidence     = excluded.evidence,
    standing     = excluded.standing,
    closed_at    = excluded.closed_at,
    closed_by    = excluded.closed_by,
    said_entry   = excluded.said_entry,
    closed_entry = excluded.closed_entry;
