// The ceiling: a worker with a constant response, byte for byte the gate's response after sold-out.
const BODY = '{"status":410,"title":"All coupons are taken","type":"urn:dropgate:problem:sold-out"}';
const INIT = { status: 410, headers: { "content-type": "application/problem+json", "cache-control": "no-store" } };

export default {
  fetch: () => new Response(BODY, INIT),
};
