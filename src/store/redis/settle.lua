-- KEYS: the event. ARGV: token, the new state, how long to remember it in ms. From live, or from the same state again.
local value = redis.call('GET', KEYS[1])
if not value then return 0 end
local state, token, attempt = value:match('^(%S+) (%x+) (%d+) %d+$')
if token ~= ARGV[1] or (state ~= 'live' and state ~= ARGV[2]) then return 0 end
redis.call('SET', KEYS[1], ARGV[2] .. ' ' .. token .. ' ' .. attempt .. ' 0', 'PX', ARGV[3])
return 1
