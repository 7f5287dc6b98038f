-- Removes values and the tokens of their buckets, or tokens of tags, and notifies the fleet. A token that is
-- missing counts as changed, so this breaks fences, and needs no room.
--
-- KEYS     the names
-- ARGV[1]  the channel        ARGV[2]  the message
--
-- Returns for each name whether it was there, 0 or 1.

-- First, so that a user who may not publish does not remove either. No client reads before the end.
redis.call('PUBLISH', ARGV[1], ARGV[2])
local removed = {}
for i, name in ipairs(KEYS) do
    removed[i] = redis.call('UNLINK', name)
end
return removed
