-- Writes claims back that Redis has lost, and whose records wait in MySQL to be decided. A user whom Redis knows is
-- left alone.
-- KEYS  1 meta   2 claims   3 outbox
-- ARGV  1 lease_ms (when the sweeper may first take the outbox entry)   2.. user, entry, user, entry..
-- Reply: number of claims written back
local users = {}
for i = 2, #ARGV, 2 do users[#users + 1] = ARGV[i] end
if #users == 0 then return 0 end
local stored = redis.call('HMGET', KEYS[2], unpack(users))
local time = redis.call('TIME')
local due_ms = string.format('%d', time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[1]))
local due, claims, lost = { 'ZADD', KEYS[3], 'NX' }, { 'HSET', KEYS[2] }, 0
for i, user in ipairs(users) do
  if not stored[i] then
    due[#due + 1] = due_ms
    due[#due + 1] = user
    claims[#claims + 1] = user
    claims[#claims + 1] = ARGV[2 * i + 1]
    lost = lost + 1
  end
end
if lost == 0 then return 0 end
-- In the order of admit.lua: what is written when a later command fails is harmless. An outbox entry without a claim is
-- removed by the sweeper, a count that is too high admits too few users. publish.lua counts the claims of a campaign
-- that is not published.
redis.call(unpack(due))
local count = tonumber(redis.call('HGET', KEYS[1], 'count'))
if count then redis.call('HSET', KEYS[1], 'count', string.format('%d', count + lost)) end
local reply = redis.pcall(unpack(claims))
if type(reply) == 'table' then
  if count then redis.pcall('HSET', KEYS[1], 'count', string.format('%d', count)) end
  return reply
end
return lost
