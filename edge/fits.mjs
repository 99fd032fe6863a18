// Reads `{ components, checks: [{ what, schema, value }] }` from standard input, and writes the values that do not match
// their schema as a JSON list of texts. tests/openapi.rs calls it once for all responses. A member that no schema names
// does not match either.
import { ajv_of } from "./openapi.mjs";
import { readFileSync } from "node:fs";

const { components, checks } = JSON.parse(readFileSync(0, "utf8"));
for (const schema of Object.values(components.schemas)) schema.additionalProperties = false;
const { compile, text } = ajv_of(components);
const misfits = [];
for (const { what, schema, value } of checks) {
  const fits = compile(schema);
  if (!fits(value)) misfits.push(`${what} ${text(fits.errors)}`);
}
process.stdout.write(JSON.stringify({ checked: checks.length, misfits }));
