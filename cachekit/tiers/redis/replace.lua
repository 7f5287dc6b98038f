-- Does what `put.lua` does for one value, if what is stored may be replaced.
--
-- KEYS[1]  the value                        KEYS[2]  the token of its bucket
-- KEYS[3...]  the tokens of its tags
-- ARGV[1]  the channel                      ARGV[2]  the message
-- ARGV[3]  the token's life in milliseconds ARGV[4]  the envelope
-- ARGV[5]  its life in milliseconds, or "" for no end
-- ARGV[6]  the new token
-- ARGV[7]  "", or the SHA-1 of the only value that may be replaced
-- ARGV[8]  "", or the only token that may be replaced
-- ARGV     then the token that each tag must have; or nothing, if they may have any
--
-- Returns 1; or 0 if another value, or token, than the one that may be replaced is stored, or if a tag has
-- another token, and nothing was changed. That is published as well: a missing number counts as a loss, and the
-- fleet would drop all copies in memory.
-- Running it twice has the effect of running it once. With a token that may be replaced, it recognises the
-- second run by its own token.

-- First, so that a user who may not publish does not write either. No client reads before the end.
redis.call('PUBLISH', ARGV[1], ARGV[2])
if ARGV[7] ~= '' then
    local held = read(KEYS[1])
    if type(held) ~= 'string' or redis.sha1hex(held) ~= ARGV[7] then
        return 0
    end
end
if ARGV[8] ~= '' then
    local held = read(KEYS[2])
    if held == ARGV[6] then
        return 1
    elseif held ~= ARGV[8] then
        return 0
    end
end
for i = 9, #ARGV do
    if read(KEYS[i - 6]) ~= ARGV[i] then
        return 0
    end
end
return store()
