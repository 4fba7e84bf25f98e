-- What `klagg audit --summary` shows beside the scoreboard.

-- name: elsewhere
-- Open findings that are about no single symbol, and so in no row of the scoreboard.
SELECT count(*) AS findings
FROM findings
WHERE standing AND closed_at IS NULL AND symbol IS NULL;
