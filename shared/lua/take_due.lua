-- Takes the outbox entries that are due and leases them, so that one sweeper at a time forwards each.
-- KEYS  1 claims   2 outbox   3 meta
-- ARGV  1 limit   2 lease_min_ms   3 lease_max_ms
-- The lease equals the age of the entry, within two bounds: it doubles from attempt to attempt without a counter.
-- Reply { waiting, now_ms, code_key, user, entry, user, entry.. }: how many wait in the outbox, the key id of the
-- campaign's code secret or "", then those taken.
-- All are strings. An entry is empty where the claim is gone: nothing is left to forward, so its outbox entry is
-- removed.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local limit, least, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local waiting = redis.call('ZCARD', KEYS[2])
local reply = { string.format('%d', waiting), string.format('%d', now), redis.call('HGET', KEYS[3], 'code_key') or '' }
if waiting == 0 then return reply end
local users = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, limit)
if #users == 0 then return reply end
local entries = redis.call('HMGET', KEYS[1], unpack(users))
-- Removing is never rejected, and after it nothing is, so that this runs when memory is full; '' is not there.
local due, gone = {}, { '' }
for i, user in ipairs(users) do
  if entries[i] then
    local admitted = tonumber(string.match(entries[i], '^%d+:(%d+):'))
    local lease = math.min(most, math.max(least, admitted and now - admitted or least))
    due[#due + 1] = string.format('%d', now + lease)
    due[#due + 1] = user
  else
    gone[#gone + 1] = user
  end
  reply[#reply + 1] = user
  reply[#reply + 1] = entries[i] or ''
end
redis.call('ZREM', KEYS[2], unpack(gone))
if #due > 0 then redis.call('ZADD', KEYS[2], 'XX', unpack(due)) end
return reply
