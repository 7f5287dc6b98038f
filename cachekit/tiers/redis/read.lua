-- Reads a string, for the scripts that this stands before. Returns false where another program stored something
-- else. Any other error is one: a user without the right to read must not find nothing.
local function read(name)
    local held = redis.pcall('GET', name)
    if type(held) ~= 'table' then
        return held
    elseif string.find(held.err, '^WRONGTYPE') then
        return false
    end
    error(held)
end

