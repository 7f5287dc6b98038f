-- Replaces the record of a process, with the time of the server, which all processes have in common.
--
-- KEYS[1]  the hash of all records
-- ARGV[1]  the process    ARGV[2]  the number of the record    ARGV[3]  the record
-- ARGV[4]  when the hash began, as an earlier answer said, or ''
-- ARGV[5]  the number of the last record that was stored, as an earlier answer said, or '0'
--
-- Returns when the hash began, and 0; or else, if nothing was stored, the number of a record that was added to
-- the sums, or -1 if this is another hash than the process knows: that one was lost.

local field = 'r:' .. ARGV[1]
local now = redis.call('TIME')
local begun = redis.call('HGET', KEYS[1], 'begun')
if not begun then
    begun = now[1] .. '.' .. now[2]
    redis.call('HSET', KEYS[1], 'begun', begun)
end
if ARGV[4] ~= '' and ARGV[4] ~= begun then
    return {begun, -1}
end
local last = tonumber(ARGV[5])
local mark = redis.call('HGET', KEYS[1], 'f:' .. ARGV[1])
if mark then
    return {begun, tonumber(string.match(mark, '^%d+|(%d+)$')) or last}
end
local stored = redis.call('HGET', KEYS[1], field)
if not stored and last > 0 then
    return {begun, last} -- it was added so long ago that the mark is gone
end
-- An earlier record of a connection that was given up may come late.
if not stored or (tonumber(string.match(stored, '^%d+|(%d+)|')) or 0) <= tonumber(ARGV[2]) then
    redis.call('HSET', KEYS[1], field, now[1] .. '|' .. ARGV[2] .. '|' .. ARGV[3])
end
redis.call('EXPIRE', KEYS[1], 86400)
return {begun, 0}
