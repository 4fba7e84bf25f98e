"""`klagg audit`: the table held against the exchange's own klines."""
