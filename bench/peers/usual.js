// The worker that most people would write: SADD so that each user counts once, INCR for the place, then Kafka.
// (A crash between the two loses the user his place, and an answer that got lost cannot be told again: it is the
// usual worker, not a right one.)
import { Redis } from "@upstash/redis/cloudflare";
import { claim } from "./claim.js";

let redis;

async function admit(campaign, user, env) {
  redis ??= Redis.fromEnv(env);
  if ((await redis.sadd(`usual:${campaign}:users`, user)) === 0) return 0;
  const place = await redis.incr(`usual:${campaign}:count`);
  return place <= Number(env.CAPACITY) ? place : null;
}

export default { fetch: (request, env, ctx) => claim(request, env, ctx, admit) };
