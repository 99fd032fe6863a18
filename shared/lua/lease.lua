-- Moves the due time of obligations that Kafka has acknowledged. XX: an entry that the issuer has
-- confirmed in the meantime is not created again.
-- KEYS  1 outbox
-- ARGV  1 lease_ms   2.. users
-- Reply: now_ms + lease_ms
local time = redis.call('TIME')
local due = string.format('%d', time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[1]))
local args = {}
for i = 2, #ARGV do
  args[#args + 1] = due
  args[#args + 1] = ARGV[i]
end
redis.call('ZADD', KEYS[1], 'XX', unpack(args))
return due
