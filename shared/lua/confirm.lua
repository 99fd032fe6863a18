-- Records what became of claims (MySQL's word is final, so the entry is overwritten) and ends their
-- obligation. Repeating it changes nothing (I6).
-- KEYS  1 claims   2 outbox
-- ARGV  user, entry, user, entry..
-- Reply: how many obligations ended
local users = {}
for i = 1, #ARGV, 2 do users[#users + 1] = ARGV[i] end
if #users == 0 then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV))
return redis.call('ZREM', KEYS[2], unpack(users))
