-- Restores lost outbox entries, due at once, so that the sweeper resends them. NX and the check of the claim:
-- a claim that was confirmed in the meantime stays confirmed.
-- KEYS  1 claims   2 outbox
-- ARGV  users whose claim has no row
-- Reply: number of outbox entries restored
if #ARGV == 0 then return 0 end
local time = redis.call('TIME')
local now = string.format('%d', time[1] * 1000 + math.floor(time[2] / 1000))
local entries = redis.call('HMGET', KEYS[1], unpack(ARGV))
local due = {}
for i, user in ipairs(ARGV) do
  if entries[i] and string.match(entries[i], '^%d+:%d+:a$') then
    due[#due + 1] = now
    due[#due + 1] = user
  end
end
if #due == 0 then return 0 end
-- Removing what is not there is never rejected, and after it nothing is, so that this runs when memory is full.
redis.call('ZREM', KEYS[2], '')
return redis.call('ZADD', KEYS[2], 'NX', unpack(due))
