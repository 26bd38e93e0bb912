-- KEYS: the event. ARGV: how long to remember the attempt in ms.
local value = redis.call('GET', KEYS[1])
local rest = value and value:match('^given_up( .*)$')
if rest then redis.call('SET', KEYS[1], 'failed' .. rest, 'PX', ARGV[1]) end
return 1
