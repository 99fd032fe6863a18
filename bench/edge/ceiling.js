// The ceiling: a worker that looks at nothing and answers the bytes with which the gate sends a stranger away.
const BODY = '{"status":410,"title":"All coupons are taken","type":"urn:dropgate:problem:sold-out"}';
const INIT = { status: 410, headers: { "content-type": "application/problem+json", "cache-control": "no-store" } };

export default {
  fetch: () => new Response(BODY, INIT),
};
