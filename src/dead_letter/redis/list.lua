-- KEYS: the letters by id, the ids in order. ARGV: the first id in the notation of ZRANGEBYLEX, how many.
local ids = redis.call('ZRANGEBYLEX', KEYS[2], ARGV[1], '+', 'LIMIT', 0, ARGV[2])
if #ids == 0 then return {} end
return redis.call('HMGET', KEYS[1], unpack(ids))
