-- Records the outcome of claims and removes their outbox entries. MySQL decides, so the entry is overwritten.
-- Repeating it changes nothing (I6). A dead letter is not final: a late ":d" never replaces issued or refused.
-- KEYS  1 claims   2 outbox
-- ARGV  user, entry, user, entry..
-- Reply: number of outbox entries removed
local users, entries = {}, {}
for i = 1, #ARGV, 2 do
  users[#users + 1] = ARGV[i]
  local told = string.sub(ARGV[i + 1], -2) == ':d' and redis.call('HGET', KEYS[1], ARGV[i])
  if not (told and string.match(told, ':[ir]$')) then
    entries[#entries + 1] = ARGV[i]
    entries[#entries + 1] = ARGV[i + 1]
  end
end
if #users == 0 then return 0 end
if #entries > 0 then redis.call('HSET', KEYS[1], unpack(entries)) end
return redis.call('ZREM', KEYS[2], unpack(users))
