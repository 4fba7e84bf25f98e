"""From the streams to TimescaleDB.

`final_service` writes finals, confirmations and amendments. `snapshot_service`, a second process of low priority,
writes bars in progress at the clock's triggers, as revision 0 and through the same `kline_table.upsert`; when there is
time it keeps the history that events and findings make, and drops what is older than the configuration keeps.
"""
