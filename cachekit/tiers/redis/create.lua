-- Does what `put.lua` does for one value, unless another value is stored under the name.
--
-- KEYS[1]  the value                        KEYS[2]  the token of its bucket
-- KEYS[3...]  the tokens of its tags
-- ARGV[1]  the channel                      ARGV[2]  the message
-- ARGV[3]  the token's life in milliseconds ARGV[4]  the envelope
-- ARGV[5]  its life in milliseconds, or "" for no end
-- ARGV[6]  the new token
-- ARGV[7]  "", or the SHA-1 of a dead value (unreadable, expired, or with an invalidated tag)
--
-- Returns 1 if the value is stored; or the value that is there, and then nothing was changed. That is published
-- as well: a missing number counts as a loss, and the fleet would drop all copies in memory.
-- Running it twice has the effect of running it once. It recognises the second run by its own token.

-- First, so that a user who may not publish does not write either. No client reads before the end.
redis.call('PUBLISH', ARGV[1], ARGV[2])
local held = read(KEYS[1])
if type(held) == 'string' and (ARGV[7] == '' or redis.sha1hex(held) ~= ARGV[7]) then
    if held == ARGV[4] and read(KEYS[2]) == ARGV[6] then
        return 1
    end
    return held
end
return store()
