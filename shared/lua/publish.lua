-- Publishes a campaign to the gate, or updates it. Runs after the holders that MySQL knows were
-- written with confirm.lua, so the number of claims is what both histories together have admitted.
-- KEYS  1 meta   2 claims
-- ARGV  1 state   2 capacity   3 opens_ms   4 closes_ms (0: never)   5 version   6 key ids of the caller's code secrets,
--       separated by commas   7 key id of the secret that the rows were written with; "" if there is no row
-- Reply { count, count before this call or false, key id of the campaign's code secret or "" }, or the version that Redis has, if that is newer (a string):
-- nothing is changed, and the caller reads MySQL again
local stored = redis.call('HGET', KEYS[1], 'version')
if stored and (tonumber(stored) or 0) > tonumber(ARGV[5]) then return stored end
-- What users were shown stays: a key id changes only while nobody has a claim, or to the one that the rows prove.
local code_key, proven = redis.call('HGET', KEYS[1], 'code_key') or '', ARGV[7] or ''
local is_known = string.find(',' .. ARGV[6] .. ',', ',' .. code_key .. ',', 1, true)
if code_key == '' or not is_known then
  local has_claims = redis.call('HLEN', KEYS[2]) > 0
  if code_key ~= '' and has_claims then
    return redis.error_reply('DROPGATE_CODE_KEY the codes of this campaign are derived from the secret ' .. code_key ..
      ', and COUPON_CODE_SECRET is ' .. ARGV[6])
  end
  if proven ~= '' then code_key = proven
  elseif not has_claims then code_key = string.match(ARGV[6], '^[^,]*') end
end
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
  'closes_ms', ARGV[4], 'version', ARGV[5], 'count', string.format('%d', count), 'code_key', code_key)
return { count, before, code_key }
