"""`klagg backfill`: the exchange's history into the table."""
