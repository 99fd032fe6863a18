-- Publishes a campaign to the gate, or updates it. Runs after the holders that MySQL knows were
-- written with confirm.lua, so the number of claims is what both histories together have admitted.
-- KEYS  1 meta   2 claims
-- ARGV  1 state   2 capacity   3 opens_ms   4 closes_ms (0: never)   5 version
-- Reply { count, count before this call or false }, or the version that Redis has, if that is newer (a string):
-- nothing is changed, and the caller reads MySQL again
local stored = redis.call('HGET', KEYS[1], 'version')
if stored and (tonumber(stored) or 0) > tonumber(ARGV[5]) then return stored end
-- The count is the number of claims that are not refused: their slots are handed out, also where the row is still under
-- way. admit.lua and confirm.lua keep it so; where it was lost, here it is counted again.
local before = redis.call('HGET', KEYS[1], 'count')
local count = 0
for _, entry in ipairs(redis.call('HVALS', KEYS[2])) do
  if string.sub(entry, -2) ~= ':r' then count = count + 1 end
end
-- Removing what is not there is never rejected, and after it nothing is, so that this runs when memory is full.
redis.call('HDEL', KEYS[1], '')
redis.call('HSET', KEYS[1], 'state', ARGV[1], 'capacity', ARGV[2], 'opens_ms', ARGV[3],
  'closes_ms', ARGV[4], 'version', ARGV[5], 'count', string.format('%d', count))
return { count, before }
