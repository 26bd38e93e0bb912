-- KEYS: the event; for a completion, which resolves its letter, the letters by id and the ids in order. ARGV: token, the new state,
-- how long to remember it in ms, the event's id. From live, or from the same state again.
local value = redis.call('GET', KEYS[1])
if not value then return 0 end
local state, token, attempt = value:match('^(%S+) (%x+) (%d+) %d+$')
if token ~= ARGV[1] or (state ~= 'live' and state ~= ARGV[2]) then return 0 end
redis.call('SET', KEYS[1], ARGV[2] .. ' ' .. token .. ' ' .. attempt .. ' 0', 'PX', ARGV[3])
if KEYS[2] then
  redis.call('HDEL', KEYS[2], ARGV[4])
  redis.call('ZREM', KEYS[3], ARGV[4])
end
return 1
