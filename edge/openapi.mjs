// `make openapi`: whether public/openapi.json is an OpenAPI document, whether its examples keep to its schemas, and
// whether each `$ref` leads somewhere.
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { Validator } from "@seriousme/openapi-schema-validator";

const file = new URL("public/openapi.json", import.meta.url);
const document = JSON.parse(await readFile(file, "utf8"));
const problems = [];

const { valid, errors } = await new Validator().validate(structuredClone(document));
if (!valid) problems.push(...[errors].flat().map((e) => (typeof e === "string" ? e : `${e.instancePath || "/"} ${e.message}`)));

const at = (ref) => ref.slice(2).split("/").reduce((part, key) => part?.[key.replaceAll("~1", "/").replaceAll("~0", "~")], document);

// The validator's own validator checks the examples.
const require = createRequire(createRequire(import.meta.url).resolve("@seriousme/openapi-schema-validator"));
const Ajv = require("ajv/dist/2020.js").default;
const ajv = new Ajv({ strict: false, allErrors: true });
ajv.addSchema({ $id: "https://gate.example/document", components: document.components });
const absolute = (schema) => JSON.parse(JSON.stringify(schema).replaceAll('"#/', '"https://gate.example/document#/'));

let examples = 0;
const visit = (value, path) => {
  if (value === null || typeof value !== "object") return;
  if (typeof value.$ref === "string" && at(value.$ref) === undefined) problems.push(`${path}: ${value.$ref} leads nowhere`);
  if (value.schema && value.examples) {
    const fits = ajv.compile(absolute(value.schema));
    for (const [name, example] of Object.entries(value.examples)) {
      examples++;
      if (!fits(example.value)) problems.push(`${path}/examples/${name}: ${ajv.errorsText(fits.errors)}`);
    }
  }
  for (const [key, part] of Object.entries(value)) visit(part, `${path}/${key}`);
};
visit(document, "#");

if (examples === 0) problems.push("no example was looked at");
for (const problem of problems) console.error(`openapi.json: ${problem}`);
console.log(`openapi.json: ${Object.keys(document.paths).length} addresses, ${examples} examples, ${problems.length} problems`);
process.exitCode = problems.length ? 1 : 0;
