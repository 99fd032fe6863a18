// The drop file, /drops/{id}.json: what the shop says about a campaign. docs/drop-page.md describes each field. Used by
// the page, and by drops.mjs, which checks the files before they are deployed.

const TEXTS = { title: 80, prize: 160, shop: 60, picture_alt: 200, winner_link_text: 40, loser_link_text: 40 };
const PICTURES = ["picture", "logo"];
const LINKS = ["terms", "winner_link", "loser_link", "address"];
const COLORS = ["accent", "accent_dark", "background", "background_dark"];

/** Returns `{ drop, problems }`: the valid fields of `file`, and a text for each that is ignored. A text that is given by
 *  language is the one for `lang`. `base` is the URL of the file. */
export function read_drop(file, lang, base) {
  const drop = {};
  const problems = [];
  if (file === null || typeof file !== "object" || Array.isArray(file)) return { drop, problems: ["the file is no JSON object"] };
  const rule_of = (name) => {
    if (Object.hasOwn(TEXTS, name)) return (value) => text(value, lang, TEXTS[name]);
    if (PICTURES.includes(name)) return (value) => picture(value, base);
    if (LINKS.includes(name)) return (value) => link(value, base);
    if (COLORS.includes(name)) return color;
    throw "is unknown";
  };
  for (const [name, value] of Object.entries(file)) {
    if (name === "$schema") continue;
    try {
      drop[name] = rule_of(name)(value);
    } catch (problem) {
      problems.push(`${name} ${problem}`);
    }
  }
  return { drop, problems };
}

function text(value, lang, limit) {
  const texts = typeof value === "string" ? { [lang]: value } : value;
  if (texts === null || typeof texts !== "object" || !Object.keys(texts).length) throw "is no text, and no texts by language";
  for (const one of Object.values(texts)) {
    if (typeof one !== "string" || !one.trim()) throw "has an empty text";
    if ([...one].length > limit) throw `is longer than ${limit} characters`;
  }
  return (texts[lang] ?? texts[lang.split("-")[0]] ?? texts.en ?? Object.values(texts)[0]).trim();
}

/** A picture comes from the page's own host: its Content-Security-Policy allows no other. */
function picture(value, base) {
  const url = url_of(value, base);
  if (url.origin !== new URL(base).origin) throw "is on another host; expected the path of a file beside the drop file";
  return url.href;
}

function link(value, base) {
  const url = url_of(value, base);
  // A local gate has no https.
  if (url.protocol !== "https:" && (url.protocol !== "http:" || url.origin !== new URL(base).origin)) throw "is no https: or relative URL";
  // `{code}` is replaced later, and URL escapes the braces.
  return url.href.replaceAll("%7Bcode%7D", "{code}");
}

function url_of(value, base) {
  if (typeof value !== "string" || !value || /[\s\x00-\x1f\\]/.test(value)) throw "is no URL";
  try {
    return new URL(value, base);
  } catch {
    throw "is no URL";
  }
}

function color(value) {
  if (typeof value !== "string" || !/^#([0-9a-f]{3}|[0-9a-f]{6})$/i.test(value)) throw "is no colour; expected #rgb or #rrggbb";
  return value.length === 4 ? value.replace(/[0-9a-f]/gi, "$&$&") : value;
}

/** The contrast of two colours, 1 to 21 (WCAG 2.2). */
export function contrast(a, b) {
  const [dark, light] = [luminance(a), luminance(b)].sort((x, y) => x - y);
  return (light + 0.05) / (dark + 0.05);
}

function luminance(hex) {
  const [r, g, b] = [1, 3, 5].map((at) => {
    const share = parseInt(hex.slice(at, at + 2), 16) / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

const [BLACK, WHITE] = ["#000000", "#ffffff"];
/** Black or white, whatever is easier to read on `back`. */
const readable_on = (back) => (contrast(BLACK, back) > contrast(WHITE, back) ? BLACK : WHITE);

/** The custom properties of page.css for the shop's colours. Texts on them are always readable. */
export function colors_of(drop) {
  const properties = {};
  for (const [suffix, card, ink] of [["", "#ffffff", "#17171c"], ["-dark", "#1a1a20", "#f2f2f5"]]) {
    const dark = suffix && "_dark";
    const accent = drop[`accent${dark}`] ?? drop.accent;
    if (accent) {
      properties[`--shop-accent${suffix}`] = accent;
      properties[`--shop-accent-ink${suffix}`] = readable_on(accent);
      properties[`--shop-link${suffix}`] = contrast(accent, card) >= 4.5 ? accent : ink;
    }
    const back = drop[`background${dark}`];
    if (back) {
      properties[`--shop-back${suffix}`] = back;
      properties[`--shop-back-ink${suffix}`] = readable_on(back);
    }
  }
  return properties;
}
