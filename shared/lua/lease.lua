-- Moves the due time of outbox entries that Kafka has acknowledged. XX: an entry that the issuer has
-- confirmed in the meantime is not created again.
-- KEYS  1 outbox
-- ARGV  lease_ms, user, lease_ms, user..
-- Reply: now_ms
-- Removing what is not there is never rejected, and after it nothing is, so that this runs when memory is full.
redis.call('ZREM', KEYS[1], '')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local args = {}
for i = 1, #ARGV, 2 do
  args[i] = string.format('%d', now + tonumber(ARGV[i]))
  args[i + 1] = ARGV[i + 1]
end
redis.call('ZADD', KEYS[1], 'XX', unpack(args))
return string.format('%d', now)
