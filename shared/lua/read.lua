-- Runs one reading command. A script runs at the leader; a plain read may be answered by a replica that is behind.
-- KEYS  1 the command's key
-- ARGV  1 the command   2.. its arguments after the key
-- Reply: the command's
local reads = {
  HGET = true, HKEYS = true, HLEN = true, HMGET = true, HSCAN = true, SCARD = true, SISMEMBER = true, SMEMBERS = true,
  ZCARD = true, ZCOUNT = true, ZMSCORE = true, ZRANGE = true, ZSCAN = true,
}
if not reads[ARGV[1]] then return redis.error_reply('DROPGATE read.lua does not run this command') end
return redis.call(ARGV[1], KEYS[1], unpack(ARGV, 2))
