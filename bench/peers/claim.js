// What the two usual workers share: the visitor's token, the record for Kafka, the answers.
import { jwtVerify } from "jose";

const problem = (status, name) =>
  new Response(JSON.stringify({ type: `urn:usual:${name}`, status }), {
    status,
    headers: { "content-type": "application/problem+json", "cache-control": "no-store" },
  });

const base64 = (text) => btoa(String.fromCharCode(...new TextEncoder().encode(text)));

let secret;

/** Handles a claim; `admit(campaign, user, env)` returns the slot, or null where all are taken. */
export async function claim(request, env, ctx, admit) {
  const path = new URL(request.url).pathname.split("/");
  if (request.method !== "POST" || path[4] !== "claims") return new Response("ok");
  const campaign = path[3];
  secret ??= new TextEncoder().encode(env.JWT_SECRET);
  let user;
  try {
    const token = request.headers.get("authorization")?.slice(7) ?? "";
    const { payload } = await jwtVerify(token, secret, { algorithms: ["HS256"], audience: env.JWT_AUDIENCE });
    user = payload.sub;
  } catch {
    return problem(401, "unauthenticated");
  }
  const slot = await admit(campaign, user, env);
  if (slot === null) return problem(410, "sold-out");
  const admitted_at = Date.now();
  const value = JSON.stringify({ v: 1, campaign, user, slot, admitted_at });
  ctx.waitUntil(
    fetch(`${env.KAFKA_REST_URL}/topics/coupon_create`, {
      method: "POST",
      headers: {
        authorization: `Bearer ${env.KAFKA_REST_TOKEN}`,
        "content-type": "application/vnd.kafka.binary.v2+json",
        accept: "application/vnd.kafka.v2+json",
      },
      body: JSON.stringify({ records: [{ key: base64(`${campaign}/${user}`), value: base64(value) }] }),
    }).then((answer) => answer.arrayBuffer()),
  );
  return Response.json({ status: "admitted", campaign, slot, admitted_at }, { status: 202 });
}
