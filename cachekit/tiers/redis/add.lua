-- Stores a value that was read or made behind tokens, if they are still current and nothing is stored. It is no
-- newer than the tokens, so no token changes and no message is published.
--
-- KEYS[1]  the value          KEYS[2]  the token of its bucket        KEYS[3...]  the tokens of tags
-- ARGV[1]  the envelope       ARGV[2]  its life in milliseconds, or "" for no end
-- ARGV[3]  "", or the SHA-1 of a dead value (unreadable, expired, or with an invalidated tag)
-- ARGV[4]  the expected token of the bucket                           ARGV[5...]  those of the tags
--
-- Returns 1 if the value is stored; 0 if a token is another one, or missing; or the value that is there.
-- Running it twice returns 1 twice, unless a token changed in between: then it returns the value, and the
-- caller checks its tags.

local held = read(KEYS[1])
local same = held == ARGV[1]
if type(held) == 'string' and not same and (ARGV[3] == '' or redis.sha1hex(held) ~= ARGV[3]) then
    return held
end
for i = 2, #KEYS do
    if read(KEYS[i]) ~= ARGV[i + 2] then
        -- The same value may be stored, and have ended, because a tag of both was invalidated.
        if same and ARGV[3] == '' then
            return held
        end
        return 0
    end
end
if same then
    return 1
end
prolong(3, ARGV[2])
if ARGV[2] == '' then
    redis.call('SET', KEYS[1], ARGV[1])
else
    redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
return 1
