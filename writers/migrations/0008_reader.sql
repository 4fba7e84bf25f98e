-- klagg_reader: a role that may read everything and write nothing, for Grafana and people. It belongs to the server and
-- cannot log in by itself: ALTER ROLE klagg_reader LOGIN PASSWORD '…', or GRANT klagg_reader TO a role that can.
-- requires: reader_role
-- without: the read-only role klagg_reader is off

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'klagg_reader') THEN
        BEGIN
            CREATE ROLE klagg_reader;
        EXCEPTION
            -- Another database of the same server was migrated at the same moment.
            WHEN duplicate_object OR unique_violation THEN NULL;
        END;
    END IF;
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO klagg_reader', current_schema());
    EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA %I TO klagg_reader', current_schema());
    -- What later migrations of this role create.
    EXECUTE format('ALTER DEFAULT PRIVILEGES IN SCHEMA %I GRANT SELECT ON TABLES TO klagg_reader', current_schema());
END $$;
