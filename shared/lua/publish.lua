-- Publishes a campaign to the gate, or updates it. Runs after the holders that MySQL knows were
-- written with confirm.lua, so the number of claims is what both histories together have admitted.
-- KEYS  1 meta   2 claims
-- ARGV  1 state   2 capacity   3 opens_ms   4 closes_ms (0: never)   5 refused: how many of the claims hold no slot
-- Reply { count, count before this call or false }
-- Claims and count change together in one script, so the claims tell how many slots are handed out,
-- also those whose rows are still under way.
local before = redis.call('HGET', KEYS[1], 'count')
local count = math.max(0, redis.call('HLEN', KEYS[2]) - tonumber(ARGV[5]))
redis.call('HSET', KEYS[1], 'state', ARGV[1], 'capacity', ARGV[2], 'opens_ms', ARGV[3],
  'closes_ms', ARGV[4], 'count', string.format('%d', count))
return { count, before }
