-- KEYS: the letters by id, the ids in order. ARGV: id, and the letter that alone is deleted, if not whatever is there.
if ARGV[2] and redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return 1
