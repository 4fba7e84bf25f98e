"""From the streams to TimescaleDB.

`final_service` writes finals, confirmations and amendments. A second process of low priority, writer-snapshot, will
stand beside it: bars in progress at the clock's triggers, through the same `kline_table.upsert`, as revision 0.
"""
