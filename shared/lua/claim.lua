-- Reads a user's claim, and the marks by which the gate notices that Redis went back in time.
-- KEYS  1 meta   2 claims
-- ARGV  1 user
-- Reply { state, last_ms, version, entry, code_key }; each is false where it is missing. No state: no such campaign.
local meta = redis.call('HMGET', KEYS[1], 'state', 'last_ms', 'version', 'code_key')
return { meta[1], meta[2], meta[3], redis.call('HGET', KEYS[2], ARGV[1]), meta[4] }
