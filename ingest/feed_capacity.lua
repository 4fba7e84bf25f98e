-- What the feed in the key KEYS[1] takes of Redis' memory.

-- name: measure
-- Answers: the bytes that the key takes (0: there is none), and Redis' maxmemory (0: none is set).
local maxmemory = string.match(redis.call('INFO', 'memory'), 'maxmemory:(%d+)')
return {redis.call('MEMORY', 'USAGE', KEYS[1]) or 0, tonumber(maxmemory or '0')}
