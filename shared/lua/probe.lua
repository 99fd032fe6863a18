-- Tries the writes that the other scripts make, and leaves nothing behind.
-- KEYS  1 a hash   2 a sorted set, both of no campaign
-- Reply 1, or the error of the first write that failed
local tried = { { 'HSET', KEYS[1], 'probe', '1' }, { 'ZADD', KEYS[2], '1', 'probe' } }
local failed
for _, write in ipairs(tried) do
  local reply = redis.pcall(unpack(write))
  if type(reply) == 'table' and not failed then failed = reply end
end
for _, undo in ipairs({ { 'ZREM', KEYS[2], 'probe' }, { 'HDEL', KEYS[1], 'probe' } }) do
  local reply = redis.pcall(unpack(undo))
  if type(reply) == 'table' and not failed then failed = reply end
end
return failed or 1
