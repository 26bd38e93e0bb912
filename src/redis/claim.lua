-- KEYS: the event. ARGV: token, lease in ms, how long to remember the attempt in ms, the longest lease in ms.
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
local attempt = 1
local value = redis.call('GET', KEYS[1])
if value then
  local state, token, before, till = value:match('^(%S+) (%x+) (%d+) (%d+)$')
  if not state then return redis.error_reply('the key does not hold an event') end
  if state == 'completed' or state == 'given_up' then return {state, 0} end
  if state == 'live' and token == ARGV[1] then
    attempt = tonumber(before)
  -- A lease that ends later than any may be was given before the clock stepped back.
  elseif state == 'live' and tonumber(till) > now and tonumber(till) <= now + 1 + ARGV[4] then
    return {'live', math.max(1, math.floor(till - now))}
  else
    attempt = before + 1
  end
end
local value = string.format('live %s %.0f %.0f', ARGV[1], attempt, math.ceil(now + ARGV[2]))
redis.call('SET', KEYS[1], value, 'PX', ARGV[2] + ARGV[3])
return {'granted', attempt}
