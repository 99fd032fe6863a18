// Makes keys and signs tokens with Node's own cryptography, so that the gate's is tested against
// another's. Standard input: [{ key, alg?, claims }, ..], where key is rs256, es256, eddsa, new, or
// hmac:SECRET. Output: { jwks: { old, rotated }, tokens: [..] }.
import { createHmac, generateKeyPairSync, sign } from "node:crypto";
import { readFileSync } from "node:fs";

const keys = {
  rs256: generateKeyPairSync("rsa", { modulusLength: 2048 }),
  es256: generateKeyPairSync("ec", { namedCurve: "P-256" }),
  eddsa: generateKeyPairSync("ed25519"),
  new: generateKeyPairSync("ec", { namedCurve: "P-256" }),
};
const names = { rs256: "RS256", es256: "ES256", eddsa: "EdDSA", new: "ES256" };
const jwk = (kid) => ({ ...keys[kid].publicKey.export({ format: "jwk" }), kid, alg: names[kid], use: "sig" });
const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");

function token({ key, alg, claims }) {
  const hmac = key.startsWith("hmac:");
  const header = hmac ? { alg: alg ?? "HS256" } : { alg: alg ?? names[key], kid: key, typ: "JWT" };
  const message = `${part(header)}.${part(claims)}`;
  if (hmac) {
    const secret = key === "hmac:public" ? keys.rs256.publicKey.export({ type: "spki", format: "pem" }) : key.slice(5);
    return `${message}.${createHmac("sha256", secret).update(message).digest("base64url")}`;
  }
  const { privateKey } = keys[key];
  const digest = key === "eddsa" ? null : "sha256";
  // ECDSA in a token is r and s side by side, not DER.
  const signature = sign(digest, Buffer.from(message), { key: privateKey, dsaEncoding: "ieee-p1363" });
  return `${message}.${signature.toString("base64url")}`;
}

const asked = JSON.parse(readFileSync(0, "utf8"));
const old = { keys: [jwk("rs256"), jwk("es256"), jwk("eddsa")] };
console.log(JSON.stringify({ jwks: { old, rotated: { keys: [...old.keys, jwk("new")] } }, tokens: asked.map(token) }));
