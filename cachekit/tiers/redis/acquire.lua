-- Takes a lease that is free.
--
-- KEYS[1]  the lease        ARGV[1]  the holder's token        ARGV[2]  its life in milliseconds
--
-- Returns 1 if the lease has this token now, else 0. Running it twice has the effect of running it once.

if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then
    return 1
end
return read(KEYS[1]) == ARGV[1] and 1 or 0
