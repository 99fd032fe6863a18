-- Applies an operator's change of the settings, after MySQL has it. Count and claims stay unchanged, so one call
-- suffices for any number of coupons.
-- KEYS  1 meta
-- ARGV  1 state   2 capacity   3 opens_ms   4 closes_ms (0: never)
-- Reply 1, or 0 if the campaign is not published: the caller then publishes it
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], 'state', ARGV[1], 'capacity', ARGV[2], 'opens_ms', ARGV[3], 'closes_ms', ARGV[4])
return 1
