-- A finding with an id of its own is one row, however often it is found, settled, and found again.

ALTER TABLE findings
    ADD COLUMN standing     boolean NOT NULL DEFAULT false,
    ADD COLUMN closed_by    jsonb,
    ADD COLUMN said_entry   text,
    ADD COLUMN closed_entry text;

CREATE INDEX findings_open ON findings (said_at) WHERE standing AND closed_at IS NULL;

COMMENT ON COLUMN findings.id IS
    'shard:id of a finding that stands until it is settled, shard:writer:seq of a notice; the same however often an entry is delivered.';
COMMENT ON COLUMN findings.standing IS
    'Whether it stands until it is settled: open while closed_at is NULL. Otherwise it is a notice of a moment.';
COMMENT ON COLUMN findings.said_at IS
    'Exchange time at which it was said first; NULL if the entry has none (time=0).';
COMMENT ON COLUMN findings.evidence IS
    'As it was said last: a JSON object, or a sentence as a JSON string: evidence #>> ''{}'' gives its text. Likewise severity and writer.';
COMMENT ON COLUMN findings.closed_at IS 'Exchange time since which it is settled; NULL while it stands, also when it was found again.';
COMMENT ON COLUMN findings.closed_by IS 'What settled it, written as evidence is.';
COMMENT ON COLUMN findings.said_entry IS
    'The id of the last entry of findings:{n} that says that it stands; closed_entry: that it is settled. The later one counts.';
