-- Indexes for questions over all symbols at once, which the keys, that begin with the symbol, do not serve.

-- Bars that were amended in their values; confirmations, which are many more, are not in it. The condition is that of
-- klines_amended.
CREATE INDEX amendments_changed ON amendments ("interval", open_time) INCLUDE (source, stored_at)
WHERE replaced_epoch IS NULL OR was <> '{}' OR became <> '{}';

-- Minutes lie on their pages about in the order of time, so that a summary of every 32 pages finds a few hours of all
-- symbols within the seven days of a chunk. It is thousands of times smaller than the key.
CREATE INDEX klines_minutes_open_time ON klines_minutes USING brin (open_time) WITH (
    pages_per_range = 32, autosummarize = on
);
