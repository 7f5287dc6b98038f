-- Replaces the record of a process, with the time of the server, which all processes have in common.
--
-- KEYS[1]  the hash of all records
-- ARGV[1]  the process    ARGV[2]  its record    ARGV[3]  '1' if it is its first one
--
-- Returns 1, or 0 if a reader has added an earlier record to those of the processes that ended.

local field = 'r:' .. ARGV[1]
if ARGV[3] ~= '1' and redis.call('HEXISTS', KEYS[1], field) == 0 then
    return 0
end
redis.call('HSET', KEYS[1], field, redis.call('TIME')[1] .. '|' .. ARGV[2])
redis.call('EXPIRE', KEYS[1], 86400)
return 1
