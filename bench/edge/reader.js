// The least that every gate does: read the user and the campaign, and respond. It validates and stores nothing.
const BODY = '{"status":410,"title":"All coupons are taken","type":"urn:dropgate:problem:sold-out"}';
const INIT = {
  status: 410,
  headers: new Headers({ "content-type": "application/problem+json", "cache-control": "no-store" }),
};
const ROUTE = /^https?:\/\/[^/]+\/v1\/campaigns\/([a-z0-9-]{1,64})\/claims$/;

function userOf(request, env) {
  if (env.AUTH === "insecure-header") return request.headers.get("x-user-id");
  const claims = request.headers.get("authorization").split(".")[1];
  return JSON.parse(atob(claims.replaceAll("-", "+").replaceAll("_", "/"))).sub;
}

export default {
  fetch(request, env) {
    const campaign = request.method === "POST" && ROUTE.exec(request.url)?.[1];
    return campaign && userOf(request, env) ? new Response(BODY, INIT) : new Response(null, { status: 400 });
  },
};
