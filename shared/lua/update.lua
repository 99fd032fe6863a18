-- Tells the gate what an operator has decided, after MySQL has it. Count and claims stay as they are,
-- so it takes one call however many coupons there are.
-- KEYS  1 meta
-- ARGV  1 state   2 capacity   3 opens_ms   4 closes_ms (0: never)
-- Reply 1, or 0 if the campaign is not published: then publish it as a whole
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], 'state', ARGV[1], 'capacity', ARGV[2], 'opens_ms', ARGV[3], 'closes_ms', ARGV[4])
return 1
