-- Stores values, makes tokens those of their buckets, and notifies the fleet.
--
-- KEYS     of each value: its name, and that of the token of its bucket
-- ARGV[1]  the channel        ARGV[2]  the message        ARGV[3]  the tokens' life in milliseconds
-- ARGV     then of each value five: the envelope; its life in milliseconds, or "" for no end; the new
--          token; "", or the SHA-1 of the only value that may be replaced; "", or the only token that may
--          be replaced
--
-- Returns 1 for each value; or 0 if another value, or token, than the one that may be replaced is stored, and
-- nothing was changed. That is published as well: a missing number counts as a loss, and the fleet would drop
-- all copies in memory.
-- Running it twice has the effect of running it once. With a token that may be replaced, it recognises the
-- second run by its own token.

local stored, failure = {}, nil

local function may_replace(name, token, only, expected, own)
    if only ~= '' then
        local held = redis.pcall('GET', name)
        if type(held) ~= 'string' or redis.sha1hex(held) ~= only then
            return false
        end
    end
    if expected ~= '' then
        local held = redis.pcall('GET', token)
        return held == expected or held == own
    end
    return true
end

-- First, so that a user who may not publish does not write either. No client reads before the end.
redis.call('PUBLISH', ARGV[1], ARGV[2])
for i = 1, #KEYS, 2 do
    local name, token = KEYS[i], KEYS[i + 1]
    local at = 4 + (i - 1) / 2 * 5
    local envelope, life, own, only, expected = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
    if not may_replace(name, token, only, expected, own) then
        stored[#stored + 1] = 0
    elseif expected ~= '' and redis.pcall('GET', token) == own then
        stored[#stored + 1] = 1
    else
        local done
        if life == '' then
            done = redis.pcall('SET', name, envelope)
        else
            done = redis.pcall('SET', name, envelope, 'PX', life)
        end
        if not done.err then
            done = redis.pcall('SET', token, own, 'PX', ARGV[3])
        end
        if done.err then
            -- A server without room keeps neither: the older value must not outlive a write of its key.
            -- Removing is allowed where storing is not.
            redis.pcall('UNLINK', name, token)
            failure = done
        end
        stored[#stored + 1] = 1
    end
end
return failure or stored
