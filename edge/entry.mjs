// What the runtime calls. worker-build's own entry is a class behind a proxy, made anew for each request, which costs a
// sold-out answer more than all its Rust; the gate keeps nothing in it.
import Entrypoint from "./build/index.js";

const { fetch, scheduled } = Entrypoint.prototype;

export default {
  fetch: (request, env, ctx) => fetch.call({ env, ctx }, request),
  scheduled: (event, env, ctx) => scheduled.call({ env, ctx }, event),
};
