-- Applies an operator's change of the settings, after MySQL has it. Count and claims stay unchanged, so one call
-- suffices for any number of coupons.
-- KEYS  1 meta
-- ARGV  1 state   2 capacity   3 opens_ms   4 closes_ms (0: never)   5 version
-- Reply 1, or 0 if the campaign is not published: the caller then publishes it. Or the version that Redis has, if
-- that is newer (a string): nothing is changed, and the caller reads MySQL again
local meta = redis.call('HMGET', KEYS[1], 'state', 'version')
if not meta[1] then return 0 end
if meta[2] and (tonumber(meta[2]) or 0) > tonumber(ARGV[5]) then return meta[2] end
-- Removing what is not there is never rejected, and after it nothing is, so that this runs when memory is full.
redis.call('HDEL', KEYS[1], '')
redis.call('HSET', KEYS[1], 'state', ARGV[1], 'capacity', ARGV[2], 'opens_ms', ARGV[3], 'closes_ms', ARGV[4],
  'version', ARGV[5])
return 1
