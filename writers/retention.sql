-- What is older than the configuration keeps goes: whole chunks of a hypertable, rows of a plain table. `cut_ms` is ms
-- since 1970; `klines_of_class` stands for a table of klines (writers/kline_classes.py). Every statement runs in a
-- transaction of its own and is short.

-- name: has_hypertables
SELECT to_regclass('timescaledb_information.hypertables') IS NOT NULL AS there;

-- name: hypertables
SELECT hypertable_name::text AS name
FROM timescaledb_information.hypertables
WHERE hypertable_schema = current_schema();

-- name: hurry
-- Dropping a chunk needs it alone. Rather than have writers queue up behind that wish, it is put off.
SET LOCAL lock_timeout = '300ms';

-- name: drop_klines
SELECT drop_chunks('klines_of_class', older_than => timestamptz 'epoch' + %(cut_ms)s * interval '1 millisecond');

-- name: drop_amendments
SELECT drop_chunks('amendments', older_than => timestamptz 'epoch' + %(cut_ms)s * interval '1 millisecond');

-- name: next_klines
-- The next symbol and interval in the order of the key, by one look into its index.
SELECT symbol, "interval"
FROM klines_of_class
WHERE (symbol, "interval") > (%(symbol)s, %(interval)s)
ORDER BY symbol, "interval"
LIMIT 1;

-- name: delete_klines
DELETE FROM klines_of_class
WHERE
    symbol = %(symbol)s
    AND "interval" = %(interval)s
    AND open_time < timestamptz 'epoch' + %(cut_ms)s * interval '1 millisecond'
    AND open_time IN (
        SELECT old.open_time
        FROM klines_of_class AS old
        WHERE
            old.symbol = %(symbol)s
            AND old."interval" = %(interval)s
            AND old.open_time < timestamptz 'epoch' + %(cut_ms)s * interval '1 millisecond'
        ORDER BY old.open_time
        LIMIT %(rows)s
    );

-- name: delete_amendments
-- There are few of them: a look at all costs less than one for each symbol.
DELETE FROM amendments
WHERE (symbol, "interval", open_time, epoch, revision, complete, official) IN (
    SELECT symbol, "interval", open_time, epoch, revision, complete, official
    FROM amendments
    WHERE open_time < timestamptz 'epoch' + %(cut_ms)s * interval '1 millisecond'
    LIMIT %(rows)s
);

-- name: delete_findings
DELETE FROM findings
WHERE id IN (
    SELECT id
    FROM findings
    WHERE said_at < timestamptz 'epoch' + %(cut_ms)s * interval '1 millisecond'
    ORDER BY said_at
    LIMIT %(rows)s
);

-- name: delete_gaps
-- Gaps that are still open stay, however old.
DELETE FROM gaps
WHERE (symbol, generation, ids, from_id, to_id, opened_at) IN (
    SELECT symbol, generation, ids, from_id, to_id, opened_at
    FROM gaps
    WHERE
        opened_at < timestamptz 'epoch' + %(cut_ms)s * interval '1 millisecond'
        AND ended_at < timestamptz 'epoch' + %(cut_ms)s * interval '1 millisecond'
    ORDER BY opened_at
    LIMIT %(rows)s
);
