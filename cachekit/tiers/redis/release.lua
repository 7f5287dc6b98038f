-- Gives a lease back. In one step: between a GET and a DEL it might expire, and the DEL would remove that of the
-- next holder.
--
-- KEYS[1]  the lease        ARGV[1]  the holder's token
--
-- Returns 1 if it was the holder's and is gone, else 0.

if read(KEYS[1]) == ARGV[1] then
    return redis.call('UNLINK', KEYS[1])
end
return 0
