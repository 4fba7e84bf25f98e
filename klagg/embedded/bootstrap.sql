-- The roles and the database that klagg works with. psql runs this at every start; :password comes before it on stdin.

-- The role: owner of its database, no superuser.
SELECT 'CREATE ROLE klagg LOGIN'
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'klagg') \gexec
ALTER ROLE klagg PASSWORD :'password';

-- The role that may only read; migrations grant it what there is.
SELECT 'CREATE ROLE klagg_reader'
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'klagg_reader') \gexec

-- The database.
SELECT 'CREATE DATABASE klagg OWNER klagg'
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'klagg') \gexec
