-- Makes the tokens of tags live as long as a value with them, for the scripts that this stands before. A token
-- without an end gets none. A missing one stays missing: the values with it are dead.
local function prolong(first, life)
    for i = first, #KEYS do
        if life == '' then
            redis.call('PERSIST', KEYS[i])
        else
            redis.call('PEXPIRE', KEYS[i], life, 'GT')
        end
    end
end

