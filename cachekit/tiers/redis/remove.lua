-- Removes a value and the token of its bucket, and tells the fleet. A token that is missing counts as
-- changed, so this breaks the fences of the bucket, and needs no room.
--
-- KEYS[1]  the value          KEYS[2]  the token of its bucket
-- ARGV[1]  the channel        ARGV[2]  the message, or "" for none
--
-- Returns how many values were there, 0 or 1.

local removed = redis.call('UNLINK', KEYS[1])
redis.call('UNLINK', KEYS[2])
if ARGV[2] ~= '' then
    redis.call('PUBLISH', ARGV[1], ARGV[2])
end
return removed
