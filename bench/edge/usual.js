// The worker that most people would write: INCR for the slot, SADD for the user, a fetch to Kafka after the response.
// INCR comes first, so that a claim after sold-out costs one command instead of two.
import { Redis } from "@upstash/redis/cloudflare";
import { worker } from "./common.js";

export default worker(async (env, campaign, user) => {
  const redis = Redis.fromEnv(env);
  const slot = await redis.incr(`${campaign}:count`);
  if (slot > Number(env.CAPACITY)) return null;
  await redis.sadd(`${campaign}:users`, user);
  return slot;
});
