// Measures the time from the start of the runtime to the first response, minus that of a worker that only answers:
// reading, compiling and instantiating the module, and reading settings. Fails above the budget. Cloudflare's limit is
// one second in all.
import http from "node:http";
import { BARE, gate, start } from "./alone.mjs";

const BUDGET_MS = 200;
const TRIES = 7;

// Without settings the gate responds with 503.
const answers = (port) =>
  new Promise((ok) => {
    const request = http.get({ port, path: "/healthz", agent: false }, (response) => {
      response.resume().on("end", () => ok(true));
    });
    request.on("error", () => ok(false));
  });

async function once(worker) {
  const begun = performance.now();
  const { port, stop } = await start(worker);
  try {
    while (!(await answers(port))) if (performance.now() - begun > 20_000) throw new Error("the worker does not answer");
    return performance.now() - begun;
  } finally {
    await stop();
  }
}

let [bare, ours] = [Infinity, Infinity];
for (let n = 0; n < TRIES; n++) {
  bare = Math.min(bare, await once(BARE));
  ours = Math.min(ours, await once(gate("build")));
}
const more = ours - bare;
console.log(`worker: starts ${more.toFixed(0)} ms later than one that only answers, budget ${BUDGET_MS} ms (minimum of ${TRIES} each)`);
process.exit(more <= BUDGET_MS ? 0 : 1);
