-- Reads tokens, and makes those that are missing: evicted, expired, or removed by an invalidation.
--
-- KEYS     the tokens
-- ARGV[1]  a token's life in milliseconds        ARGV[2...]  a fresh token for each of KEYS
--
-- Returns the tokens, in the order of KEYS. One that is in use does not run out: it gets its whole life
-- again when half of it is over.

local life = tonumber(ARGV[1])
local tokens = {}
for i, key in ipairs(KEYS) do
    local token = read(key)
    -- Only what a cache could have made is a token.
    if type(token) ~= 'string' or #token > 19 or not string.match(token, '^[1-9]%d*$') then
        token = ARGV[i + 1]
        redis.call('SET', key, token, 'PX', ARGV[1])
    else
        local left = redis.call('PTTL', key)
        if left >= 0 and left < life / 2 then
            redis.call('PEXPIRE', key, ARGV[1])
        end
    end
    tokens[i] = token
end
return tokens
