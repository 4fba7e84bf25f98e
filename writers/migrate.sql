-- What writers/migrate.py asks and says about the schema itself.

-- name: lock
-- Two processes that start at once take turns; the lock ends with the transaction.
SELECT pg_advisory_xact_lock(hashtextextended('klagg.schema_migrations', 0));

-- name: create_schema_migrations
CREATE TABLE IF NOT EXISTS schema_migrations (
    version     integer     PRIMARY KEY,
    name        text        NOT NULL,
    checksum    text        NOT NULL,
    applied_at  timestamptz NOT NULL DEFAULT now()
);

-- name: has_schema_migrations
SELECT to_regclass('schema_migrations') IS NOT NULL AS there;

-- name: applied
SELECT version, checksum FROM schema_migrations;

-- name: record
INSERT INTO schema_migrations (version, name, checksum) VALUES (%(version)s, %(name)s, %(checksum)s);

-- name: timescaledb
-- A setting of TimescaleDB is known to a server that has preloaded it, whether or not this database uses it.
SELECT
    EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') AS there,
    current_setting('timescaledb.disable_load', true) IS NOT NULL AS preloaded;

-- name: license
-- `apache` or `timescale`. It is known once the extension is loaded into the session.
SELECT coalesce(current_setting('timescaledb.license', true), '') AS license;

-- name: reader_role
SELECT
    EXISTS (SELECT FROM pg_roles WHERE rolname = 'klagg_reader') AS there,
    (SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user) AS may_create;

-- name: create_timescaledb
CREATE EXTENSION IF NOT EXISTS timescaledb;
