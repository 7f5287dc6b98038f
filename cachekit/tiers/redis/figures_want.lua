-- Says that figures are wanted from now on, or still.
--
-- KEYS[1]  the key that says it
-- ARGV[1]  how many milliseconds they are wanted
--
-- Returns how many milliseconds they have been wanted already.

local now = redis.call('TIME')
local milliseconds = math.floor(now[1] * 1000 + now[2] / 1000)
local since = tonumber(redis.call('GET', KEYS[1]))
if not since or not (since >= 0 and since <= milliseconds) then
    redis.call('SET', KEYS[1], string.format('%d', milliseconds), 'PX', ARGV[1])
    return 0
end
-- Not a shorter time than another reader has asked for.
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[1]) then
    redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
return milliseconds - since
