// What both usual workers share: the route, authentication, the responses, and the record for Kafka.
import { jwtVerify } from "jose";

const ROUTE = /^\/v1\/campaigns\/([a-z0-9-]{1,64})\/claims$/;
let secret;

/** Imported once per isolate. */
async function key(env) {
  secret ??= await crypto.subtle.importKey(
    "raw", new TextEncoder().encode(env.JWT_SECRET), { name: "HMAC", hash: "SHA-256" }, false, ["verify"],
  );
  return secret;
}

async function userOf(request, env) {
  if (env.AUTH === "insecure-header") return request.headers.get("x-user-id");
  const token = request.headers.get("authorization")?.replace(/^Bearer /, "");
  if (!token) return null;
  try {
    const { payload } = await jwtVerify(token, await key(env), { algorithms: ["HS256"] });
    return payload.sub;
  } catch {
    return null;
  }
}

function problem(status, label, title) {
  return new Response(JSON.stringify({ status, title, type: `urn:dropgate:problem:${label}` }), {
    status,
    headers: { "content-type": "application/problem+json", "cache-control": "no-store" },
  });
}

/**
 * `admit(env, campaign, user)` returns a slot, or null if all coupons are taken.
 */
export function worker(admit) {
  return {
    async fetch(request, env, ctx) {
      const { pathname } = new URL(request.url);
      if (pathname === "/healthz") return Response.json({ status: "ok" });
      const campaign = ROUTE.exec(pathname)?.[1];
      if (!campaign || request.method !== "POST") return problem(404, "not-found", "Not found");
      const user = await userOf(request, env);
      if (!user) return problem(401, "unauthenticated", "Authentication required");

      const slot = await admit(env, campaign, user);
      if (!slot) return problem(410, "sold-out", "All coupons are taken");

      const admitted_at = Date.now();
      ctx.waitUntil(forward(env, { v: 1, campaign, user, slot, admitted_at }));
      return new Response(JSON.stringify({ status: "admitted", campaign, slot, code: `${slot}`, admitted_at }), {
        status: 202,
        headers: { "content-type": "application/json", "cache-control": "no-store" },
      });
    },
  };
}

async function forward(env, value) {
  const response = await fetch(`${env.KAFKA_REST_URL}/topics/coupon_create`, {
    method: "POST",
    headers: {
      authorization: `Bearer ${env.KAFKA_REST_TOKEN}`,
      "content-type": "application/vnd.kafka.json.v2+json",
      accept: "application/vnd.kafka.v2+json",
    },
    body: JSON.stringify({ records: [{ key: `${value.campaign}/${value.user}`, value }] }),
  });
  const { offsets } = await response.json();
  if (!response.ok || offsets?.some((offset) => offset.error_code)) console.error("not forwarded", value.slot);
}
