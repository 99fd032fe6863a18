// One request panics while 100 others wait for Redis, and 100 more come right after. Prints what each hears.
import { spawn } from "node:child_process";
import { copyFileSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import http from "node:http";
import { createServer } from "node:net";

const build = process.argv[2];
const dir = mkdtempSync("/tmp/panic-trial-");
const packages = "node_modules/@cloudflare";
const workerd = `${process.cwd()}/${packages}/${readdirSync(packages).find((n) => n.startsWith("workerd-"))}/bin/workerd`;
const free = () =>
  new Promise((ok) => {
    const probe = createServer().listen(0, "127.0.0.1", () => {
      const { port } = probe.address();
      probe.close(() => ok(port));
    });
  });
const sleep = (ms) => new Promise((ok) => setTimeout(ok, ms));

// A Redis REST service that knows every campaign and takes its time.
const meta = JSON.stringify([{ result: ["open", "100", "7", "5", "0"] }, { result: ["12", "345678"] }]);
const redis = http.createServer((request, response) => {
  request.resume().on("end", () => setTimeout(() => response.end(meta), 300));
});
await new Promise((ok) => redis.listen(0, "127.0.0.1", ok));
const port = await free();
const vars = {
  ENVIRONMENT: "development",
  AUTH: "insecure-header",
  UPSTASH_REDIS_REST_URL: `http://127.0.0.1:${redis.address().port}`,
  UPSTASH_REDIS_REST_TOKEN: "token",
  KAFKA_REST_URL: "http://127.0.0.1:1",
  COUPON_CODE_SECRET: "0123456789abcdef",
};
for (const file of ["index.js", "index_bg.wasm"]) copyFileSync(`${build}/${file}`, `${dir}/${file}`);
copyFileSync("entry.mjs", `${dir}/entry.mjs`);
const bindings = Object.entries(vars).map(([name, text]) => `(name = "${name}", text = "${text}")`);
writeFileSync(
  `${dir}/config.capnp`,
  `using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [(name = "gate", worker = .gate), (name = "internet", network = (allow = ["local", "private"]))],
  sockets = [(name = "http", address = "127.0.0.1:${port}", http = (), service = "gate")],
);
const gate :Workerd.Worker = (
  modules = [
    (name = "entry.mjs", esModule = embed "entry.mjs"),
    (name = "build/index.js", esModule = embed "index.js"),
    (name = "build/index_bg.wasm", wasm = embed "index_bg.wasm"),
  ],
  compatibilityDate = "2026-04-01",
  bindings = [${bindings.join(", ")}],
);`,
);
const server = spawn(workerd, ["serve", "config.capnp"], { cwd: dir, stdio: ["ignore", "ignore", "inherit"] });

const get = (path) =>
  new Promise((ok) => {
    const request = http.get({ port, path, agent: false, timeout: 8000 }, (response) => {
      response.resume().on("end", () => ok(response.statusCode));
    });
    request.on("error", (error) => ok(error.code)).on("timeout", () => request.destroy());
  });
const all = (count, path) => Promise.all(Array.from({ length: count }, (_, n) => get(path(n))));
const tally = (heard) => {
  const counts = {};
  for (const one of heard) counts[one] = (counts[one] ?? 0) + 1;
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
  server.kill();
  redis.close();
  rmSync(dir, { recursive: true });
}
process.exit(0);
