-- KEYS: the event. ARGV: token, the new state, the state in which it cannot be reached, how long to remember it in ms.
local value = redis.call('GET', KEYS[1])
if not value then return 0 end
local state, token, attempt = value:match('^(%l+) (%x+) (%d+) %d+$')
if token ~= ARGV[1] or state == ARGV[3] then return 0 end
redis.call('SET', KEYS[1], ARGV[2] .. ' ' .. token .. ' ' .. attempt .. ' 0', 'PX', ARGV[4])
return 1
