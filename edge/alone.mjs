// Runs a worker on workerd, in a folder of its own, for the scripts here that test the built gate.
import { spawn } from "node:child_process";
import { copyFileSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";

const packages = "node_modules/@cloudflare";
const workerd = `${process.cwd()}/${packages}/${readdirSync(packages).find((n) => n.startsWith("workerd-"))}/bin/workerd`;

const free = () =>
  new Promise((ok) => {
    const probe = createServer().listen(0, "127.0.0.1", () => {
      const { port } = probe.address();
      probe.close(() => ok(port));
    });
  });

/** A worker that only answers. */
export const BARE = { files: {}, text: `export default { fetch: () => new Response("ok") };` };

/** The gate that is built in the folder `build`. */
export const gate = (build) => ({
  files: { "entry.mjs": "entry.mjs", "build/index.js": `${build}/index.js`, "build/index_bg.wasm": `${build}/index_bg.wasm` },
});

/** Starts a worker with text bindings `vars`. Returns its port and a function that stops it. */
export async function start({ files, text }, vars = {}, stderr = "ignore") {
  const dir = mkdtempSync("/tmp/worker-");
  const port = await free();
  if (text) writeFileSync(`${dir}/0`, text);
  const modules = text ? [`(name = "worker.mjs", esModule = embed "0")`] : [];
  for (const [name, from] of Object.entries(files)) {
    const at = `${modules.length}`;
    copyFileSync(from, `${dir}/${at}`);
    modules.push(`(name = "${name}", ${name.endsWith(".wasm") ? "wasm" : "esModule"} = embed "${at}")`);
  }
  const bindings = Object.entries(vars).map(([name, value]) => `(name = "${name}", text = "${value}")`);
  writeFileSync(
    `${dir}/config.capnp`,
    `using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [(name = "it", worker = .it), (name = "internet", network = (allow = ["local", "private"]))],
  sockets = [(name = "http", address = "127.0.0.1:${port}", http = (), service = "it")],
);
const it :Workerd.Worker = (
  modules = [${modules.join(", ")}],
  compatibilityDate = "2026-04-01",
  bindings = [${bindings.join(", ")}],
);`,
  );
  const server = spawn(workerd, ["serve", "config.capnp"], { cwd: dir, stdio: ["ignore", "ignore", stderr] });
  const ended = new Promise((ok) => server.on("exit", ok));
  const stop = async () => {
    server.kill();
    await ended;
    rmSync(dir, { recursive: true });
  };
  return { port, stop };
}
