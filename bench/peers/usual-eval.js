// The same with one script for both steps.
import { Redis } from "@upstash/redis/cloudflare";
import { claim } from "./claim.js";

const SCRIPT = `
local known = redis.call('HGET', KEYS[2], ARGV[1])
if known then return tonumber(known) end
local count = tonumber(redis.call('GET', KEYS[1]) or '0')
if count >= tonumber(ARGV[2]) then return 0 end
count = redis.call('INCR', KEYS[1])
redis.call('HSET', KEYS[2], ARGV[1], count)
return count`;

let redis;

async function admit(campaign, user, env) {
  redis ??= Redis.fromEnv(env);
  const keys = [`usual-eval:{${campaign}}:count`, `usual-eval:{${campaign}}:users`];
  const place = await redis.eval(SCRIPT, keys, [user, env.CAPACITY]);
  return place > 0 ? place : null;
}

export default { fetch: (request, env, ctx) => claim(request, env, ctx, admit) };
