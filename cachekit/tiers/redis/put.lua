-- Stores values, makes tokens those of their buckets, and notifies the fleet. Clients have checked everything.
--
-- KEYS     of each value: its name, and that of the token of its bucket; then the tokens of tags
-- ARGV[1]  the channel        ARGV[2]  the message        ARGV[3]  the bucket tokens' life in milliseconds
-- ARGV     then of each value three: the envelope; its life in milliseconds, or "" for no end; the new token
-- ARGV     then of each tag: the life of its longest value in milliseconds, or "" for no end
--
-- Returns nothing. Running it twice has the effect of running it once.

-- First, so that a user who may not publish does not write either. No client reads before the end.
redis.call('PUBLISH', ARGV[1], ARGV[2])
local values = #ARGV - #KEYS - 3
for i = 1, #KEYS - 2 * values do
    local token, life = KEYS[2 * values + i], ARGV[3 + 3 * values + i]
    -- Never less, and never an end where there is none. A token that is missing stays missing.
    if life == '' then
        redis.call('PERSIST', token)
    else
        redis.call('PEXPIRE', token, life, 'GT')
    end
end
local failure
local at = 4
for i = 1, 2 * values, 2 do
    local life, done = ARGV[at + 1]
    if life == '' then
        done = redis.pcall('SET', KEYS[i], ARGV[at])
    else
        done = redis.pcall('SET', KEYS[i], ARGV[at], 'PX', life)
    end
    if not done.err then
        done = redis.pcall('SET', KEYS[i + 1], ARGV[at + 2], 'PX', ARGV[3])
    end
    if done.err then
        -- A server without room keeps neither: the older value must not outlive a write of its key.
        -- Removing is allowed where storing is not.
        redis.pcall('UNLINK', KEYS[i], KEYS[i + 1])
        failure = done
    end
    at = at + 3
end
return failure
