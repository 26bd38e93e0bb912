-- KEYS: the letters by id, the ids in order, the event. ARGV: id, the letter that is there or '', the letter to put in its
-- place.
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then return 0 end
-- An event that has been handled needs no letter: a delivery that has lost its claim would leave one behind.
local event = redis.call('GET', KEYS[3])
if event and event:match('^completed ') then return 1 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
redis.call('ZADD', KEYS[2], 0, ARGV[1])
return 1
