-- Records the outcome of claims and removes their outbox entries. MySQL decides, so the entry is overwritten.
-- Repeating it changes nothing (I6). A dead letter is not final: a late ":d" never replaces issued or refused.
-- KEYS  1 meta   2 claims   3 outbox
-- ARGV  user, entry, user, entry..
-- Reply: number of outbox entries removed
-- The count is the number of claims that are not refused. It follows each change of a claim, so it stays right also
-- where rows arrive whose claim Redis had lost.
local users = {}
for i = 1, #ARGV, 2 do users[#users + 1] = ARGV[i] end
if #users == 0 then return 0 end
-- With memory full, Redis rejects only the first write of a script, and only if that needs memory. Removing what is not
-- there is never rejected, and what follows frees memory.
redis.call('ZREM', KEYS[3], '')
local stored = redis.call('HMGET', KEYS[2], unpack(users))
local entries, latest, more = { 'HSET', KEYS[2] }, {}, 0
for i, user in ipairs(users) do
  local before, entry = latest[user] or stored[i], ARGV[2 * i]
  if not (before and string.sub(entry, -2) == ':d' and string.match(before, ':[ir]$')) then
    entries[#entries + 1] = user
    entries[#entries + 1] = entry
    if before and string.sub(before, -2) ~= ':r' then more = more - 1 end
    if string.sub(entry, -2) ~= ':r' then more = more + 1 end
    latest[user] = entry
  end
end
-- The outbox entry goes last: after a call that fails before that, the sweeper sends the record again. The count is undone if the
-- claims cannot be written. publish.lua counts the claims of a campaign that is not published.
local count = more ~= 0 and tonumber(redis.call('HGET', KEYS[1], 'count'))
if count then redis.call('HSET', KEYS[1], 'count', string.format('%d', math.max(0, count + more))) end
if #entries > 2 then
  local reply = redis.pcall(unpack(entries))
  if type(reply) == 'table' then
    if count then redis.pcall('HSET', KEYS[1], 'count', string.format('%d', count)) end
    return reply
  end
end
return redis.call('ZREM', KEYS[3], unpack(users))
