-- Stores one value and its token, for the scripts that this stands before, which document KEYS and ARGV. Returns
-- 1, or an error.
local function store()
    prolong(3, ARGV[5])
    local done
    if ARGV[5] == '' then
        done = redis.pcall('SET', KEYS[1], ARGV[4])
    else
        done = redis.pcall('SET', KEYS[1], ARGV[4], 'PX', ARGV[5])
    end
    if not done.err then
        done = redis.pcall('SET', KEYS[2], ARGV[6], 'PX', ARGV[3])
    end
    if done.err then
        -- A server without room keeps neither, as in `put.lua`.
        redis.pcall('UNLINK', KEYS[1], KEYS[2])
        return done
    end
    return 1
end

