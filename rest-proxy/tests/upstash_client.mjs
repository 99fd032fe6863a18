// Drives the npm client @upstash/redis against a proxy: node upstash_client.mjs URL TOKEN
import assert from "node:assert/strict";
import { createRequire } from "node:module";

const [url, token] = process.argv.slice(2);
const require = createRequire(new URL("../../edge/package.json", import.meta.url));
let Redis;
try {
  ({ Redis } = require("@upstash/redis"));
} catch {
  console.error("@upstash/redis is not installed: run `make setup`");
  process.exit(1);
}

let checks = 0;
const equal = (actual, expected) => {
  assert.deepEqual(actual, expected);
  checks += 1;
};
const rejects = async (promise, pattern) => {
  await assert.rejects(promise, pattern);
  checks += 1;
};

async function drive(redis, name) {
  const key = (suffix) => `${name}:${suffix}`;
  equal(await redis.ping(), "PONG");
  equal(await redis.set(key("text"), "h\u00e9llo \u{1f39f} \"quoted\""), "OK");
  equal(await redis.get(key("text")), "h\u00e9llo \u{1f39f} \"quoted\"");
  equal(await redis.set(key("ok"), "OK"), "OK");
  equal(await redis.get(key("ok")), "OK");
  equal(await redis.get(key("none")), null);
  equal(await redis.set(key("flag"), true, { ex: 100, nx: true }), "OK");
  equal(await redis.get(key("flag")), true);
  equal(await redis.set(key("json"), { a: [1, "x"], b: null }), "OK");
  equal(await redis.get(key("json")), { a: [1, "x"], b: null });
  equal(await redis.incr(key("n")), 1);
  equal(await redis.incrbyfloat(key("f"), 1.5), 1.5);
  equal(await redis.hset(key("hash"), { a: 1, b: "two" }), 2);
  equal(await redis.hgetall(key("hash")), { a: 1, b: "two" });
  equal(await redis.zadd(key("zset"), { score: 2, member: "b" }, { score: 1, member: "a" }), 2);
  equal(await redis.zrange(key("zset"), 0, -1, { withScores: true }), ["a", 1, "b", 2]);
  equal(await redis.mget(key("n"), key("none")), [1, null]);

  // Scripts: EVALSHA, NOSCRIPT, EVAL, EVALSHA.
  const script = redis.createScript(`return {KEYS[1], ARGV[1], '${name}'}`, { readonly: false });
  const sha = await redis.scriptLoad("return 1");
  equal(await redis.evalsha(sha, [], []), 1);
  await rejects(redis.evalsha("f".repeat(40), [], []), /NOSCRIPT No matching script/);
  for (const _ of [1, 2]) equal(await script.exec(["k"], ["v"]), ["k", "v", name]);
  equal(await redis.eval("return {1, {2, 'x'}, false}", [], []), [1, [2, "x"], null]);

  // Explicit and automatic pipelines, and transactions.
  equal(await redis.pipeline().set(key("p"), "1").incr(key("p")).get(key("p")).exec(), ["OK", 2, 2]);
  const kept = await redis.pipeline().set(key("p"), "x").incr(key("p")).exec({ keepErrors: true });
  equal(kept[0].result, "OK");
  equal(/ERR value is not an integer/.test(kept[1].error), true);
  equal(await redis.multi().set(key("m"), "1").incr(key("m")).hgetall(key("hash")).exec(), ["OK", 2, { a: 1, b: "two" }]);
  await rejects(redis.multi().set(key("m"), "9").exec().then(() => redis.lpop(key("m"))), /WRONGTYPE/);
  equal(await redis.get(key("m")), 9);
  await rejects(redis.get(), /wrong number of arguments for 'get' command/);
}

// The client's defaults: base64 responses, automatic pipelines, read-your-writes tokens, retries.
const redis = new Redis({ url, token });
await drive(redis, "default");
await drive(new Redis({ url, token, responseEncoding: false, enableAutoPipelining: false }), "plain");

const many = await Promise.all(Array.from({ length: 500 }, (_, i) => redis.incr(`auto:${i % 5}`)));
equal(many.reduce((sum, n) => sum + n, 0), 5 * ((100 * 101) / 2));

await rejects(new Redis({ url, token: "wrong" }).get("k"), /WRONGPASS invalid or missing auth token/);

// Retries: nothing listens on this port, so the client repeats and then gives up.
let attempts = 0;
const lonely = new Redis({ url: "http://127.0.0.1:9", token, retry: { retries: 2, backoff: () => (attempts += 1) } });
await rejects(lonely.ping(), /fetch failed|bad port/);
equal(attempts, 2);

console.log(`${checks} checks passed`);
