-- Removes the consumers of a group that hold no entry and have not read for long; answers with their names.
-- KEYS[1] the stream; ARGV: the group, the consumer that stays, and how long (ms) one must not have read.
local dropped = {}
for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
    local told = {}
    for at = 1, #consumer, 2 do
        told[consumer[at]] = consumer[at + 1]
    end
    if told.name ~= ARGV[2] and tonumber(told.pending) == 0 and tonumber(told.idle) >= tonumber(ARGV[3]) then
        redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], told.name)
        dropped[#dropped + 1] = told.name
    end
end
return dropped
