// The usual worker with one script: one command per claim.
import { Redis } from "@upstash/redis/cloudflare";
import { worker } from "./common.js";

const ADMIT = `
local slot = redis.call('INCR', KEYS[1])
if slot > tonumber(ARGV[1]) then return 0 end
redis.call('SADD', KEYS[2], ARGV[2])
return slot`;

export default worker(async (env, campaign, user) => {
  const redis = Redis.fromEnv(env);
  const slot = await redis.eval(ADMIT, [`${campaign}:count`, `${campaign}:users`], [env.CAPACITY, user]);
  return slot || null;
});
