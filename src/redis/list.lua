-- KEYS: the letters by id, the ids in order. ARGV: the first id in the notation of ZRANGEBYLEX, how many.
local letters, first = {}, ARGV[1]
repeat
  local ids = redis.call('ZRANGEBYLEX', KEYS[2], first, '+', 'LIMIT', 0, ARGV[2])
  for _, id in ipairs(ids) do
    first = '(' .. id
    -- An id may be left without its letter, where the server evicts keys.
    local letter = redis.call('HGET', KEYS[1], id)
    if letter then letters[#letters + 1] = {id, letter} else redis.call('ZREM', KEYS[2], id) end
  end
until #letters > 0 or #ids == 0
return letters
