"""The only modules that import a driver: Redis Streams and PostgreSQL, each with one owner."""
