// One request panics while 100 others wait for Redis, and 100 more follow. Prints the status that each gets.
import http from "node:http";
import { gate, start } from "./alone.mjs";

const sleep = (ms) => new Promise((ok) => setTimeout(ok, ms));

// A Redis REST service that has every campaign and is slow.
const meta = JSON.stringify([{ result: ["open", "100", "7", "5", "0", null] }, { result: ["12", "345678"] }]);
const redis = http.createServer((request, response) => {
  request.resume().on("end", () => setTimeout(() => response.end(meta), 300));
});
await new Promise((ok) => redis.listen(0, "127.0.0.1", ok));
const vars = {
  ENVIRONMENT: "development",
  AUTH: "insecure-header",
  UPSTASH_REDIS_REST_URL: `http://127.0.0.1:${redis.address().port}`,
  UPSTASH_REDIS_REST_TOKEN: "token",
  KAFKA_REST_URL: "http://127.0.0.1:1",
  COUPON_CODE_SECRET: "0123456789abcdef",
};
const { port, stop } = await start(gate(process.argv[2]), vars, "inherit");

const get = (path) =>
  new Promise((ok) => {
    const request = http.get({ port, path, agent: false, timeout: 8000 }, (response) => {
      response.resume().on("end", () => ok(response.statusCode));
    });
    request.on("error", (error) => ok(error.code)).on("timeout", () => request.destroy());
  });
const all = (count, path) => Promise.all(Array.from({ length: count }, (_, n) => get(path(n))));
const tally = (statuses) => {
  const counts = {};
  for (const one of statuses) counts[one] = (counts[one] ?? 0) + 1;
  return JSON.stringify(counts);
};

try {
  while ((await get("/healthz")) !== 200) await sleep(50);
  const waiting = all(100, (n) => `/v1/campaigns/waiting-${n}`);
  await sleep(100);
  const itself = get("/panic");
  await sleep(50);
  const after = all(100, (n) => `/v1/campaigns/after-${n}`);
  console.log(`  itself ${await itself}   while it panicked ${tally(await waiting)}   right after ${tally(await after)}`);
} finally {
  await stop();
  redis.close();
}
process.exit(0);
