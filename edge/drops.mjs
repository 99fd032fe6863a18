// `node drops.mjs`: checks the drop files in public/drops/, and makes the preview that messengers and social networks show
// of a link: they run no script, so each campaign gets a copy of the page with its own title, text and picture. wrangler
// runs it before each deployment (build.sh). The folder `public` may be given as an argument.
import { existsSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { read_drop } from "./public/drop.js";

const folder = process.argv[2] ?? fileURLToPath(new URL("public", import.meta.url));
const drops = join(folder, "drops");
const [BEGIN, END] = ["# Written by drops.mjs: the campaigns with a preview of their own.", "# End of what drops.mjs writes."];

const escape = (text) => text.replaceAll("&", "&amp;").replaceAll('"', "&quot;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
const write = (path, text) => (existsSync(path) && readFileSync(path, "utf8") === text) || writeFileSync(path, text);

/** Checks one file. Returns its valid fields. */
function check(id, problems) {
  if (id === "index") problems.push("a file with this name would be the page of the whole folder: choose another campaign id");
  if (!/^[a-z0-9-]{1,64}$/.test(id)) problems.push("its name is no campaign id: 1 to 64 characters a to z, 0 to 9 and hyphens");
  let file;
  try {
    file = JSON.parse(readFileSync(join(drops, `${id}.json`), "utf8"));
  } catch (error) {
    problems.push(`it is no JSON: ${error.message}`);
    return {};
  }
  const base = `https://the.page/drops/${id}.json`;
  const { drop, problems: found } = read_drop(file, "en", base);
  problems.push(...found);
  for (const name of ["picture", "logo"]) {
    if (drop[name] && !existsSync(join(folder, decodeURIComponent(new URL(drop[name]).pathname)))) {
      problems.push(`${name} does not exist in ${folder}`);
    }
  }
  if (drop.address && new URL(drop.address).pathname !== `/c/${id}`) problems.push(`address does not end with /c/${id}`);
  return drop;
}

/** The page, with what a link to it shows. */
function preview(page, { title, prize, shop, picture, picture_alt, address, accent }) {
  const absolute = picture && address && new URL(new URL(picture).pathname, address).href;
  const meta = [
    ["property", "og:type", "website"], ["property", "og:title", title ?? shop], ["property", "og:description", prize],
    ["property", "og:site_name", shop], ["property", "og:url", address], ["property", "og:image", absolute],
    ["property", "og:image:alt", absolute && picture_alt],
    ["name", "twitter:card", absolute ? "summary_large_image" : "summary"],
    ["name", "description", prize], ["name", "theme-color", accent],
  ];
  const tags = meta.filter(([, , value]) => value).map(([kind, name, value]) => `<meta ${kind}="${name}" content="${escape(value)}">`);
  return page
    .replace(/<title>.*<\/title>/, () => `<title>${escape(title ?? shop ?? "Coupon drop")}</title>\n${tags.join("\n")}`);
}

const page = readFileSync(join(folder, "index.html"), "utf8");
const names = existsSync(drops) ? readdirSync(drops) : [];
const ids = names.filter((name) => name.endsWith(".json")).map((name) => name.slice(0, -".json".length)).sort();
let failed = 0;
const rules = [];
for (const id of ids) {
  const problems = [];
  const drop = check(id, problems);
  for (const problem of problems) console.error(`drops/${id}.json: ${problem}`);
  failed += problems.length;
  if (problems.length) continue;
  write(join(drops, `${id}.html`), preview(page, drop));
  rules.push(`/c/${id} /drops/${id} 200`, `/c/${id}/ /drops/${id} 200`);
}
for (const name of names) if (name.endsWith(".html") && !ids.includes(name.slice(0, -".html".length))) rmSync(join(drops, name));

// The first rule that fits counts.
const redirects = join(folder, "_redirects");
const old = readFileSync(redirects, "utf8");
const own = old.includes(BEGIN) ? old.slice(0, old.indexOf(BEGIN)) + old.slice(old.indexOf(END) + END.length + 1) : old;
write(redirects, rules.length ? `${[BEGIN, ...rules, END].join("\n")}\n${own}` : own);
if (ids.length) console.log(`drop files: ${ids.length}, problems: ${failed}`);
process.exitCode = failed ? 1 : 0;
