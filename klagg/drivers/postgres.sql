-- What klagg/drivers/postgres.py says to every new connection, and to one that may be gone.

-- name: open_session
SELECT
    set_config('TimeZone', 'UTC', false),
    set_config('client_min_messages', 'warning', false),
    set_config('statement_timeout', %(timeout_ms)s::text, false);

-- name: ping
SELECT 1;
