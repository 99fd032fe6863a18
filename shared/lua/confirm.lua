-- Records what became of claims (MySQL's word is final, so the entry is overwritten) and ends their
-- obligation. Repeating it changes nothing (I6). That a record is in the dead-letter topic is no final word:
-- said late, it leaves what is issued or refused as it is.
-- KEYS  1 claims   2 outbox
-- ARGV  user, entry, user, entry..
-- Reply: how many obligations ended
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
