-- The account of REST weight in the hash KEYS[1]: fields `<minute>:all`, `<minute>:<role>` and `until`.
-- Redis runs a script as one step (Redis docs, "Scripting with Lua"), so no two processes spend the same weight.

-- name: spend
-- ARGV: role, weight, own_max, total_max, skew_ms, flight_ms.
-- Answers: granted (0 or 1), wait_ms, minute, whether the exchange asked for the pause (0 or 1).
local minute_ms = 60000
local role, weight = ARGV[1], tonumber(ARGV[2])
local own_max, total_max = tonumber(ARGV[3]), tonumber(ARGV[4])
local skew_ms, flight_ms = tonumber(ARGV[5]), tonumber(ARGV[6])
local time = redis.call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local minute = math.floor(now_ms / minute_ms)
local pause_ms = tonumber(redis.call('HGET', KEYS[1], 'until') or '0') - now_ms
if pause_ms > 0 then return {0, pause_ms, minute, 1} end
local first = math.floor((now_ms - skew_ms) / minute_ms)
local last = math.floor((now_ms + flight_ms) / minute_ms)
local function used(at, who) return tonumber(redis.call('HGET', KEYS[1], at .. ':' .. who) or '0') end
local wait_ms = 0
for at = first, last do
  if used(at, 'all') + weight > total_max or used(at, role) + weight > own_max then
    wait_ms = (at + 1) * minute_ms + skew_ms - now_ms
  end
end
if wait_ms > 0 then return {0, wait_ms, minute, 0} end
for _, name in ipairs(redis.call('HKEYS', KEYS[1])) do
  local at = tonumber(string.match(name, '^(%d+):'))
  if at and at < first then redis.call('HDEL', KEYS[1], name) end
end
for at = first, last do
  redis.call('HINCRBY', KEYS[1], at .. ':all', weight)
  redis.call('HINCRBY', KEYS[1], at .. ':' .. role, weight)
end
return {1, 0, minute, 0}

-- name: report
-- ARGV: minute, used, pause_ms, skew_ms. Answers with nothing.
-- A figure that may be of the minute before is left out: it would stop every process for this minute.
local minute_ms = 60000
local minute, used, pause_ms, skew_ms = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
if pause_ms > 0 then
  local known = tonumber(redis.call('HGET', KEYS[1], 'until') or '0')
  if now_ms + pause_ms > known then redis.call('HSET', KEYS[1], 'until', string.format('%.0f', now_ms + pause_ms)) end
end
local same = math.floor(now_ms / minute_ms) == minute and math.floor((now_ms - skew_ms) / minute_ms) == minute
if same and used > tonumber(redis.call('HGET', KEYS[1], minute .. ':all') or '0') then
  redis.call('HSET', KEYS[1], minute .. ':all', used)
end
return {}
