-- Admits users to a campaign, or returns the reason why not. One call decides for 1..n users, in the given order.
-- KEYS  1 meta   2 claims   3 outbox
-- ARGV  1 lease_ms (when the sweeper may first take the outbox entry)   2 key ids of the caller's code secrets, separated
--       by commas   3.. users
-- Reply false: no such campaign.
--       { opens_ms, now_ms, held, code_key, answer.. }, one answer a user:
--       "+entry" admitted now, "=entry" admitted before, "full", "early", "late", "paused".
--       now_ms is 0 where the clock was not needed; held is "claims:last", how many claims there are and
--       when the last was admitted; "" unless an answer is "full". All numbers are strings. code_key names the secret of
--       the campaign's codes; "" where it was published before there were key ids.
--       An error, and nobody is admitted, if a user is to get an entry and the caller does not have that secret, or has
--       several and the campaign names none: it would show codes that no row has.
-- Repeating the call for a user returns the same entry (I2, I5). It changes nothing, but a lost outbox entry of a claim
-- whose row is still to come is created again (I3).
local meta = redis.call('HMGET', KEYS[1], 'state', 'capacity', 'count', 'opens_ms', 'closes_ms', 'last_ms', 'code_key')
if not meta[1] then return false end
local state, capacity, count = meta[1], tonumber(meta[2]), tonumber(meta[3])
local opens, closes, lease = tonumber(meta[4]), tonumber(meta[5]), tonumber(ARGV[1])
if not (capacity and count and opens and closes) then
  return redis.error_reply('DROPGATE campaign meta is damaged: publish the campaign again')
end
local code_key, key_ids = meta[7] or '', ARGV[2] or ''
if not lease or #ARGV < 3 then
  return redis.error_reply('DROPGATE admit needs a lease in ms and at least one user')
end

local users = {}
for i = 3, #ARGV do users[i - 2] = ARGV[i] end
local known = redis.call('HMGET', KEYS[2], unpack(users))

local now = 0
local barred, full = false, false
local held = ''
local answers, fresh = {}, {}
local due, claims = { 'ZADD', KEYS[3] }, { 'HSET', KEYS[2] }
local owed = { 'ZADD', KEYS[3], 'NX' }
local admitted, held_before = 0, 0
for i, user in ipairs(users) do
  local entry = known[i] or fresh[user]
  if entry then
    answers[i] = '=' .. entry
    if string.sub(entry, -2) ~= ':r' then held_before = held_before + 1 end
    local admitted_ms = known[i] and string.match(entry, ':(%d+):a$')
    if admitted_ms then
      owed[#owed + 1] = string.format('%d', admitted_ms + lease)
      owed[#owed + 1] = user
    end
  elseif count >= capacity then
    answers[i] = 'full'
    full = true
  else
    if now == 0 then
      local time = redis.call('TIME')
      now = time[1] * 1000 + math.floor(time[2] / 1000)
      if now < opens then barred = 'early'
      elseif (closes > 0 and now >= closes) or state == 'closed' then barred = 'late'
      elseif state ~= 'open' then barred = 'paused' end
    end
    if barred then
      answers[i] = barred
    else
      count = count + 1
      admitted = admitted + 1
      entry = string.format('%d:%d:a', count, now)
      fresh[user] = entry
      answers[i] = '+' .. entry
      claims[#claims + 1] = user
      claims[#claims + 1] = entry
      due[#due + 1] = string.format('%d', now + lease)
      due[#due + 1] = user
    end
  end
end

if admitted + held_before > 0 then
  if code_key == '' and string.find(key_ids, ',', 1, true) then
    return redis.error_reply('DROPGATE_CODE_KEY this campaign names no secret of its codes, and there are two, ' ..
      key_ids .. ': publish the campaign again')
  elseif code_key ~= '' and not string.find(',' .. key_ids .. ',', ',' .. code_key .. ',', 1, true) then
    return redis.error_reply('DROPGATE_CODE_KEY the codes of this campaign are derived from the secret ' .. code_key ..
      ', and COUPON_CODE_SECRET is ' .. key_ids)
  end
end
if full then
  -- Every slot handed out has its claim here, unless Redis has lost some: then nobody may hear "full".
  local claimed = redis.call('HLEN', KEYS[2]) + admitted
  if claimed < count then
    return redis.error_reply('DROPGATE claims are lost: publish the campaign again')
  end
  held = string.format('%d:%s', claimed, admitted > 0 and string.format('%d', now) or meta[6] or '0')
end
-- The answer to a repetition is right whether or not this succeeds, so an error (memory is full) is no reason to fail.
if #owed > 3 then redis.pcall(unpack(owed)) end
if admitted > 0 then
  -- Redis undoes nothing of a script that fails. So the claim, from which all later answers come, is written last:
  -- until then nobody has a slot. What was written before is undone. If that fails too, take_due.lua removes the
  -- outbox entry, and a count that is too high admits too few users, never too many.
  local counted =
    { 'HSET', KEYS[1], 'count', string.format('%d', count), 'last_ms', string.format('%d', now) }
  for step, write in ipairs({ due, counted, claims }) do
    local reply = redis.pcall(unpack(write))
    if type(reply) == 'table' then
      if step > 2 then redis.pcall('HSET', KEYS[1], 'count', meta[3], 'last_ms', meta[6] or '0') end
      if step > 1 then
        for user in pairs(fresh) do redis.pcall('ZREM', KEYS[3], user) end
      end
      return reply
    end
  end
end
local reply = { meta[4], string.format('%d', now), held, code_key }
for i = 1, #answers do reply[4 + i] = answers[i] end
return reply
