// The ceiling: a worker that answers a claim with the gate's own "sold out", byte for byte, and does nothing else.
const body = JSON.stringify({ status: 410, title: "All coupons are taken", type: "urn:dropgate:problem:sold-out" });
const init = { status: 410, headers: { "content-type": "application/problem+json", "cache-control": "no-store" } };

export default {
  fetch(request) {
    return request.url.endsWith("/claims") ? new Response(body, init) : new Response("ok");
  },
};
