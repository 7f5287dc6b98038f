-- Adds the last record of a process that has ended to the sums, and leaves a mark in its place. In one step, so
-- that no reader counts it twice, or not at all.
--
-- KEYS[1]  the hash of all records
-- ARGV[1]  the process    ARGV[2]  its record, as it was read    ARGV[3]  the number of the record
-- ARGV[4..]  each counter and its number
--
-- Returns 1, or 0 if there is another record by now, or none.

local field = 'r:' .. ARGV[1]
if redis.call('HGET', KEYS[1], field) ~= ARGV[2] then
    return 0
end

-- Other programs may write there: what is no figure counts as nothing, and stops no sum.
local function add(name, number)
    local sum = tonumber(redis.call('HGET', KEYS[1], name))
    if not sum or not (sum >= 0 and sum <= 9.2e18) then
        sum = 0
    end
    redis.call('HSET', KEYS[1], name, string.format('%.17g', sum + number))
end

redis.call('HSET', KEYS[1], 'f:' .. ARGV[1], redis.call('TIME')[1] .. '|' .. ARGV[3])
redis.call('HDEL', KEYS[1], field)
add('ended', 1)
for i = 4, #ARGV, 2 do
    add('e:' .. ARGV[i], tonumber(ARGV[i + 1]))
end
return 1
