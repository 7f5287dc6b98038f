-- Stores a value, makes a token the one of its bucket, and tells the fleet.
--
-- KEYS[1]  the value          KEYS[2]  the token of its bucket
-- ARGV[1]  the envelope       ARGV[2]  its life in milliseconds, or "" for no end
-- ARGV[3]  the new token      ARGV[4]  the token's life in milliseconds
-- ARGV[5]  "", or the SHA-1 of the only value that may be replaced
-- ARGV[6]  the channel        ARGV[7]  the message, or "" for none
-- ARGV[8]  "", or the only token that may be replaced
--
-- Returns 1; or 0 if another value than that of ARGV[5], or another token than that of ARGV[8], is there,
-- and nothing was changed.
-- Running it twice leaves what running it once does. With ARGV[8] it knows a second time by its own token.

if ARGV[5] ~= '' then
    local held = redis.pcall('GET', KEYS[1])
    if type(held) ~= 'string' or redis.sha1hex(held) ~= ARGV[5] then
        return 0
    end
end
if ARGV[8] ~= '' then
    local token = redis.pcall('GET', KEYS[2])
    if token == ARGV[3] then
        return 1
    end
    if token ~= ARGV[8] then
        return 0
    end
end

local done
if ARGV[2] == '' then
    done = redis.pcall('SET', KEYS[1], ARGV[1])
else
    done = redis.pcall('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
if not done.err then
    done = redis.pcall('SET', KEYS[2], ARGV[3], 'PX', ARGV[4])
end
if done.err then
    -- A server without room keeps neither: the older value must not outlive a write of its key. Removing
    -- is allowed where storing is not.
    redis.pcall('UNLINK', KEYS[1], KEYS[2])
end
if ARGV[7] ~= '' then
    redis.call('PUBLISH', ARGV[6], ARGV[7])
end
if done.err then
    return done
end
return 1
