-- How complete each symbol's day is, counted into the table symbol_days. Times are ms since 1970.

-- name: refresh
SELECT refresh_symbol_days(
    to_timestamp(%(since_ms)s / 1000.0), to_timestamp(%(until_ms)s / 1000.0), at => to_timestamp(%(at_ms)s / 1000.0)
) AS changed;

-- name: missing
SELECT coalesce(sum(expected - bars), 0)::bigint AS missing
FROM symbol_days
WHERE day > to_timestamp(%(since_ms)s / 1000.0) - INTERVAL '1 day' AND expected > bars;
