-- How complete each symbol's day is, counted into the table symbol_days. Times are ms since 1970.

-- name: refresh
SELECT refresh_symbol_days(to_timestamp(%(since_ms)s / 1000.0), to_timestamp(%(until_ms)s / 1000.0)) AS changed;
