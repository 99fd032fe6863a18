// The entry point. worker-build's own is a class behind a proxy, created for each request. That costs a sold-out
// response more than all of its Rust, and the gate has no state in it.
import Entrypoint from "./build/index.js";

const { fetch, scheduled } = Entrypoint.prototype;

export default {
  fetch: (request, env, ctx) => fetch.call({ env, ctx }, request),
  scheduled: (event, env, ctx) => scheduled.call({ env, ctx }, event),
};
