-- Returns the time of the server in seconds, and the fields and values of the hash of all records, in turn.
--
-- KEYS[1]  the hash

return {redis.call('TIME')[1], redis.call('HGETALL', KEYS[1])}
