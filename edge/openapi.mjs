// `make openapi`: checks that public/openapi.json is an OpenAPI document, that its examples match its schemas, and that
// each `$ref` has a target.
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { Validator } from "@seriousme/openapi-schema-validator";

// The validator of documents depends on the validator of values.
const require = createRequire(createRequire(import.meta.url).resolve("@seriousme/openapi-schema-validator"));
const Ajv = require("ajv/dist/2020.js").default;

/** Returns a compiler of schemas that refer to `components`. */
export function ajv_of(components) {
  const ajv = new Ajv({ strict: false, allErrors: true });
  ajv.addSchema({ $id: "https://gate.example/document", components });
  const absolute = (schema) => JSON.parse(JSON.stringify(schema).replaceAll('"#/', '"https://gate.example/document#/'));
  return { compile: (schema) => ajv.compile(absolute(schema)), text: (errors) => ajv.errorsText(errors, { dataVar: "" }) };
}

async function check() {
  const document = JSON.parse(await readFile(new URL("public/openapi.json", import.meta.url), "utf8"));
  const problems = [];
  const { valid, errors } = await new Validator().validate(structuredClone(document));
  if (!valid) problems.push(...[errors].flat().map((e) => (typeof e === "string" ? e : `${e.instancePath || "/"} ${e.message}`)));

  const part_of = (part, key) => part?.[key.replaceAll("~1", "/").replaceAll("~0", "~")];
  const at = (ref) => ref.slice(2).split("/").reduce(part_of, document);
  const { compile, text } = ajv_of(document.components);
  let examples = 0;
  const visit = (value, path) => {
    if (value === null || typeof value !== "object") return;
    if (typeof value.$ref === "string" && at(value.$ref) === undefined) problems.push(`${path}: ${value.$ref} has no target`);
    if (value.schema && value.examples) {
      const fits = compile(value.schema);
      for (const [name, example] of Object.entries(value.examples)) {
        examples++;
        if (!fits(example.value)) problems.push(`${path}/examples/${name}: ${text(fits.errors)}`);
      }
    }
    for (const [key, part] of Object.entries(value)) visit(part, `${path}/${key}`);
  };
  visit(document, "#");
  if (examples === 0) problems.push("no example was checked");

  for (const problem of problems) console.error(`openapi.json: ${problem}`);
  console.log(`openapi.json: ${Object.keys(document.paths).length} URLs, ${examples} examples, ${problems.length} problems`);
  process.exitCode = problems.length ? 1 : 0;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await check();
