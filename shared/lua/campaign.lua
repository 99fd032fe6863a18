-- Reads a campaign and the clock at one moment.
-- KEYS  1 meta
-- ARGV  fields
-- Reply { fields' values as of HMGET, reply to TIME, version or false }
return { redis.call('HMGET', KEYS[1], unpack(ARGV)), redis.call('TIME'), redis.call('HGET', KEYS[1], 'version') }
