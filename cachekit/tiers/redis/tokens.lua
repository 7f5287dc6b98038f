-- Reads tokens, and makes those that are missing: evicted, expired, or removed by an invalidation.
--
-- KEYS     the tokens
-- ARGV     a fresh token for each of KEYS; then for each of them its life in milliseconds
--
-- Returns the tokens, in the order of KEYS. One that is in use does not run out: it gets its whole life
-- again when half of it is over.

local tokens = {}
for i, key in ipairs(KEYS) do
    local token, life = read(key), ARGV[#KEYS + i]
    -- Only what a cache could have made is a token.
    if type(token) ~= 'string' or #token > 19 or not string.match(token, '^[1-9]%d*$') then
        token = ARGV[i]
        redis.call('SET', key, token, 'PX', life)
    else
        local left = redis.call('PTTL', key)
        if left >= 0 and left < tonumber(life) / 2 then
            redis.call('PEXPIRE', key, life)
        end
    end
    tokens[i] = token
end
return tokens
