-- Adds the last record of a process that has ended to the sums, and removes it. In one step, so that no reader
-- counts it twice, or not at all.
--
-- KEYS[1]  the hash of all records
-- ARGV[1]  the process    ARGV[2]  its record, as it was read    ARGV[3..]  each counter and its number
--
-- Returns 1, or 0 if there is another record by now, or none.

local field = 'r:' .. ARGV[1]
if redis.call('HGET', KEYS[1], field) ~= ARGV[2] then
    return 0
end
for i = 3, #ARGV, 2 do
    redis.call('HINCRBYFLOAT', KEYS[1], 'e:' .. ARGV[i], ARGV[i + 1])
end
redis.call('HINCRBY', KEYS[1], 'ended', 1)
redis.call('HDEL', KEYS[1], field)
return 1
