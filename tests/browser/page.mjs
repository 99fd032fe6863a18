// Drives the drop page in a real Chromium against a running gate. Ends with 0 if the page did what it should.
//
//   node tests/browser/page.mjs GATE CAMPAIGNS [PICTURES]
//
// CAMPAIGNS is JSON: ids of campaigns that are `open` (capacity 1), `soon` (opens in some seconds), `sold_out`, `closed`
// and `paused`, and two more that are open, `undecided` and `token`. With PICTURES, a folder, every
// state is photographed there in four sizes, in light and dark. ONLY=text runs the tests with this text in their names.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { colors_of, contrast, read_drop } from "../../edge/public/drop.js";
import { calendar } from "../../edge/public/files.js";
import { STATES } from "../../edge/public/preview.js";
import { WORDS, direction, speak } from "../../edge/public/words.js";
import { Clock, word_of, pause_ms } from "../../edge/public/gate.js";

const tools = createRequire(new URL("../../edge/package.json", import.meta.url));
const { chromium } = tools("playwright-core");
const axe = tools("axe-core").source;
const repository = fileURLToPath(new URL("../../", import.meta.url));
const example = JSON.parse(readFileSync(`${repository}docs/drop-page/spring.json`, "utf8"));
const TURNSTILE = "https://challenges.cloudflare.com";
const [gate, list, pictures] = process.argv.slice(2);
const campaigns = JSON.parse(list);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"],
});

/** A visitor with a browser profile of their own. What the page does wrong ends the run. */
async function visitor({ others = [], ...options } = {}) {
  const context = await browser.newContext({ locale: "en-GB", viewport: { width: 390, height: 844 }, ...options });
  const page = await context.newPage();
  const wrong = [];
  const asked = [];
  const warnings = [];
  page.on("pageerror", (error) => wrong.push(String(error)));
  page.on("console", (line) => line.type() === "warning" && warnings.push(line.text()));
  page.on("console", (line) => /Content Security Policy|Refused to/.test(line.text()) && wrong.push(line.text()));
  page.on("request", (request) => {
    asked.push(`${request.method()} ${new URL(request.url()).pathname}`);
    if (![gate, "blob:"].some((known) => request.url().startsWith(known)) && !others.includes(new URL(request.url()).origin)) wrong.push(`asked another host: ${request.url()}`);
  });
  const phase = (name, timeout = 15_000) => page.waitForSelector(`main[data-phase="${name}"]`, { timeout });
  const open = (campaign, fragment = "") => page.goto(`${gate}/c/${campaign}${fragment}`);
  const sign_in = async (user) => {
    await page.fill("#dev-id", user);
    await page.click("#dev-go");
    await page.waitForSelector("#dev-id", { state: "attached" });
  };
  const says = (id) => page.textContent(`#${id}`);
  const leave = async () => {
    assert.deepEqual(wrong, []);
    await context.close();
  };
  return { context, page, asked, warnings, phase, open, sign_in, says, leave };
}

const widths = [[320, 568], [390, 844], [667, 375], [1280, 800]];
/** Photographs the page as it stands, without asking the gate again. */
async function photograph({ page }, name) {
  for (const [width, height] of widths) {
    await page.setViewportSize({ width, height });
    const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert.ok(over <= 0, `${name} is ${over} px too wide at ${width}`);
    if (!pictures) continue;
    for (const colorScheme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme });
      await page.screenshot({ path: `${pictures}/${name}-${width}-${colorScheme}.png` });
    }
  }
  await page.setViewportSize({ width: 390, height: 844 });
}

/** An answer of the gate that is a problem, for a route. */
const problem = (status, kind, fields) => ({
  status,
  contentType: "application/problem+json",
  json: { type: `urn:dropgate:problem:${kind}`, title: kind, status, ...fields },
});

/** Serves the example of the documentation as the drop file of the campaign `spring`. */
async function serve_drop_file({ page }) {
  for (const [file, contentType] of [["spring.json", "application/json"], ["spring.svg", "image/svg+xml"], ["shop.svg", "image/svg+xml"]]) {
    await page.route(`**/drops/${file}`, (route) => route.fulfill({ contentType, path: `${repository}docs/drop-page/${file}` }));
  }
}

const button_top = ({ page }, id = "claim") => page.locator(`#${id}`).boundingBox().then((box) => Math.round(box.y));

const tests = {
  async "every language has every word, and the same places for numbers"() {
    const places = (text) => [...text.matchAll(/\{\w+\}/g)].map(String).sort();
    for (const [lang, words] of Object.entries(WORDS)) {
      assert.deepEqual(Object.keys(words), Object.keys(WORDS.en), lang);
      for (const key of Object.keys(words)) assert.deepEqual(places(words[key]), places(WORDS.en[key]), `${lang} ${key}`);
    }
    assert.equal(Object.keys(WORDS).length, 12);
    // No text is English by mistake. What is the same on purpose is named here.
    const same = { es: ["days"], pt: ["days"] };
    for (const [lang, words] of Object.entries(WORDS)) {
      if (lang === "en") continue;
      const english = Object.keys(words).filter((key) => words[key] === WORDS.en[key]);
      assert.deepEqual(english, same[lang] ?? [], lang);
    }
    assert.equal(speak(["nl", "ko-KR"]).lang, "ko");
    assert.equal(speak(["nl"]).lang, "en");
    assert.equal(speak(["nl"], { nl: { title: "Kortingsbonnen" } }).say("title"), "Kortingsbonnen");
    assert.equal(speak(["iw-IL"]).lang, "he");
    assert.deepEqual(["ar", "he", "fa-IR", "en", "zh"].map(direction), ["rtl", "rtl", "rtl", "ltr", "ltr"]);
  },

  async "what is not surely an answer of the gate is no refusal (I8)"() {
    assert.equal(word_of(410, { type: "urn:dropgate:problem:sold-out" }), "sold-out");
    for (const [status, body] of [[0, undefined], [502, undefined], [410, { error: "gone" }], [404, {}], [200, "OK"], [202, {}]]) {
      assert.equal(word_of(status, body), "undecided", `${status}`);
    }
    assert.equal(word_of(429, undefined), "too-many-requests");
    const pauses = Array.from({ length: 1000 }, () => pause_ms(3, 5000));
    assert.ok(Math.min(...pauses) >= 5000, "Retry-After is the least");
    assert.ok(Math.max(...pauses) - Math.min(...pauses) > 5000, "a crowd does not come back together");
  },

  async "the clock is as exact as the best response, and never off by more than it says"() {
    for (let round = 0; round < 200; round++) {
      const clock = new Clock();
      const ahead = 1e12 * Math.random();
      let sent = performance.now() - 60_000;
      let best = Infinity;
      for (let n = 0; n < 6; n++) {
        // The way there and back, and how long Redis took; every other response tells one time only, as `not-open` does.
        const [there, back, redis] = [400, 400, n % 2 && 300].map((most) => most * Math.random() ** 2);
        const received = sent + there + back;
        const server_time = sent + there + ahead - redis * Math.random();
        clock.sync(redis ? { server_time, server_time_latest: server_time + redis } : { server_time }, sent, received);
        best = Math.min(best, there + back + redis);
        sent = received + 2000;
      }
      const off = Math.abs(clock.now_ms() - (performance.now() + ahead));
      // 3 ms for the drift that it allows for.
      assert.ok(clock.error_ms <= best / 2 + 3, `${clock.error_ms} of ${best}`);
      assert.ok(off <= clock.error_ms + 3, `off by ${off}, and says ${clock.error_ms}`);
    }
    const slept = new Clock();
    slept.sync({ server_time: 1_000_000 }, 0, 100);
    slept.sync({ server_time: 9_000_000 }, 200, 300);
    assert.ok(Math.abs(slept.now_ms() - performance.now() - 8_999_750) <= 1, "a device that slept takes the new time");
  },

  async "counts down by the gate's clock, and opens without asking"() {
    const v = await visitor();
    // The visitor's own clock is an hour wrong.
    await v.page.addInitScript(() => { const now = Date.now; Date.now = () => now() + 3_600_000; });
    await v.open(campaigns.soon);
    await v.phase("waiting");
    assert.match(await v.says("countdown"), /^00:00:\d\d$/);
    await v.sign_in("early bird");
    const before = await button_top(v);
    await v.page.click("#claim", { force: true });
    assert.equal(await v.page.getAttribute("main", "data-phase"), "waiting");
    assert.ok(!v.asked.some((line) => line.startsWith("POST")), "it asked before the opening");
    await photograph(v, "waiting");
    await v.page.waitForFunction(() => document.getElementById("countdown").textContent <= "00:00:04");
    const looked = v.asked.filter((line) => line.endsWith(campaigns.soon)).length;
    await v.phase("open", 60_000);
    assert.ok(v.asked.filter((line) => line === `GET /v1/campaigns/${campaigns.soon}`).length <= looked, "it asked at the opening");
    assert.equal(await button_top(v), before, "the button moved from under the thumb");
    await v.page.keyboard.press("Enter");
    await v.page.waitForSelector("#slot:not(:empty)");
    assert.equal(await v.says("slot"), "1");
    await v.leave();
  },

  async "a press at the opening is not early, over a slow network, and none is repeated late"() {
    const loads = Number(process.env.LOADS ?? 8);
    const wait = (ms) => new Promise((done) => setTimeout(done, ms));
    const late = [];
    let early = 0;
    for (let n = 0; n < loads; n += 20) {
      const visitors = await Promise.all(Array.from({ length: Math.min(20, loads - n) }, () => visitor()));
      const opens_at = Date.now() + 15_000;
      await Promise.all(visitors.map(async (v, i) => {
        // A phone: 150 ms there and back, up to 100 more; and the gate's first look at a far Redis is slow.
        const way = () => wait(75 + 50 * Math.random() ** 2);
        let looks = 0;
        await v.page.route(/\/v1\//, async (route) => {
          await way();
          const arrived = Date.now();
          let response = { json: { state: "open", capacity: 1, remaining: 1, opens_at, closes_at: null } };
          if (route.request().method() === "POST") {
            early += arrived < opens_at;
            response = arrived < opens_at ? problem(403, "not-open", { opens_at, server_time: arrived }) : problem(410, "sold-out");
          } else if (route.request().url().endsWith("/claims/me")) {
            response = problem(404, "no-claim");
          } else {
            const redis = looks++ ? 0 : 300 + 300 * Math.random();
            await wait(redis);
            response.json.server_time = Date.now() - redis / 2;
            response.json.server_time_latest = response.json.server_time + redis;
            if (arrived < opens_at) response.json.state = "not-open";
          }
          await way();
          await route.fulfill(response);
        });
        await v.page.addInitScript(() => {
          const press = () => {
            if (document.querySelector("main")?.dataset.phase !== "open") return;
            watch.disconnect();
            window.live_at = Date.now();
            document.getElementById("claim").click();
          };
          const watch = new MutationObserver(press);
          watch.observe(document, { subtree: true, childList: true, attributes: true, attributeFilter: ["data-phase"] });
        });
        await wait(i * 300);
        await v.open("fair");
        await v.phase("sold-out", 60_000);
        late.push((await v.page.evaluate(() => window.live_at)) - opens_at);
        await v.leave();
      }));
    }
    late.sort((a, b) => a - b);
    const at = (share) => late[Math.ceil(share * late.length) - 1];
    console.log(`      ${loads} loads: live ${late[0]} to ${late.at(-1)} ms after the opening, p50 ${at(0.5)}, p99 ${at(0.99)} ms`);
    assert.equal(late.length, loads);
    assert.equal(early, 0, "presses that were early");
  },

  async "a press gives slot and code, a reload shows the same, and another visitor hears that all are taken"() {
    const v = await visitor({ permissions: ["clipboard-read", "clipboard-write"] });
    await v.open(campaigns.open);
    await v.phase("open");
    await v.page.waitForSelector("#dev:not([hidden])");
    await photograph(v, "open-who");
    await v.sign_in("鬼 Ünï");
    await photograph(v, "open");
    const top = await button_top(v);
    await v.page.click("#claim");
    await v.phase("issued", 30_000);
    const held = [await v.says("slot"), await v.says("code")];
    assert.equal(held[0], "1");
    assert.match(held[1], /^[0-9A-HJKMNP-TV-Z-]{10,}$/);
    assert.equal(await button_top(v, "copy"), top, "another button came to another place");
    assert.equal(await v.page.evaluate(() => document.activeElement.id), "title");
    assert.match(await v.says("live"), /You are in/);
    await photograph(v, "issued");
    await v.page.click("#copy");
    await v.page.waitForFunction(() => document.getElementById("note").textContent === "Copied");
    assert.equal(await v.page.evaluate(() => navigator.clipboard.readText()), held[1]);
    await v.page.reload();
    await v.phase("issued");
    assert.deepEqual([await v.says("slot"), await v.says("code")], held);
    assert.equal(await v.page.evaluate((code) => JSON.stringify([localStorage, sessionStorage]).includes(code), held[1]), false);

    const late = await visitor();
    // They had the page open before the last coupon went.
    await late.page.route(`**/v1/campaigns/${campaigns.open}`, async (route) => {
      const now = await (await route.fetch()).json();
      await route.fulfill({ json: { ...now, state: "open", remaining: 1 } });
    });
    await late.open(campaigns.open);
    await late.page.waitForSelector("#dev:not([hidden])");
    await late.sign_in("late");
    await late.page.click("#claim");
    await late.phase("sold-out");
    await photograph(late, "sold-out");
    await late.page.click("#check");
    await late.page.waitForFunction(() => document.getElementById("note").textContent.startsWith("You hold no coupon"));
    await late.leave();
    await v.leave();
  },

  async "an unknown outcome is told as that, and asked again until it is known (I8)"() {
    const v = await visitor();
    await v.open(campaigns.undecided);
    await v.page.waitForSelector("#dev:not([hidden])");
    await v.sign_in("patient");
    let tries = 0;
    const times = [];
    await v.page.route("**/claims", (route) => {
      times.push(performance.now());
      tries++;
      // The claim arrives, its answer is lost; then a proxy's own error page; then the gate itself is busy.
      if (tries === 1) return route.fetch().then(() => route.abort());
      if (tries === 2) return route.fulfill({ status: 502, contentType: "text/html", body: "<h1>Bad gateway</h1>" });
      if (tries === 3) return route.fulfill({ ...problem(503, "unavailable"), headers: { "retry-after": "2" } });
      return route.continue();
    });
    await v.page.click("#claim");
    await v.page.waitForFunction(() => document.getElementById("note").textContent.startsWith("Not decided yet"));
    assert.equal(await v.page.getAttribute("main", "data-phase"), "asking");
    await photograph(v, "undecided");
    await v.page.waitForSelector("#slot:not(:empty)", { timeout: 60_000 });
    assert.equal(tries, 4);
    assert.ok(times[3] - times[2] >= 2000, "it came back before Retry-After");
    await v.leave();
  },

  async "closed, paused, unknown, no campaign"() {
    for (const [campaign, name, button] of [[campaigns.closed, "closed", "Closed"], [campaigns.paused, "paused", "Paused"]]) {
      const v = await visitor();
      await v.open(campaign);
      await v.phase(name);
      assert.equal(await v.says("claim"), button);
      await photograph(v, name);
      await v.leave();
    }
    const v = await visitor();
    await v.open("no-such-campaign");
    await v.phase("unknown");
    await photograph(v, "unknown");
    await v.page.goto(`${gate}/`);
    await v.phase("start");
    await photograph(v, "start");
    await v.page.fill("#start-id", "not an id");
    await v.page.keyboard.press("Enter");
    await v.page.waitForFunction(() => document.getElementById("note").textContent.includes("1 to 64"));
    await v.page.fill("#start-id", campaigns.closed);
    await v.page.keyboard.press("Enter");
    await v.phase("closed");
    await v.open(campaigns.closed.toUpperCase());
    await v.phase("closed");
    await v.leave();
  },

  async "a token leaves the address at once, goes with each request, and is dropped when it is refused"() {
    const v = await visitor({ locale: "de-DE" });
    const seen = [];
    await v.page.route("**/claims*", (route) => {
      seen.push(route.request().headers().authorization);
      return route.fulfill({ ...problem(401, "unauthenticated"), headers: { "www-authenticate": "Bearer" } });
    });
    await v.open(campaigns.token, "#token=a.b.c");
    await v.phase("open");
    assert.equal(v.page.url(), `${gate}/c/${campaigns.token}`);
    assert.equal(await v.page.getAttribute("html", "lang"), "de");
    await v.page.click("#claim");
    await v.page.waitForFunction(() => document.getElementById("note").textContent.includes("melden Sie sich im Shop an"));
    assert.deepEqual(seen, ["Bearer a.b.c"]);
    assert.equal(await v.page.evaluate(() => sessionStorage.getItem("dropgate:token")), null);
    assert.equal(await v.page.locator("#dev").isVisible(), false);
    await photograph(v, "sign-in-de");
    await v.leave();
  },

  async "a token that ends before the opening, or is refused, is told long before it"() {
    const opens_at = Date.now() + 3_600_000;
    const token = (exp) => `a.${Buffer.from(JSON.stringify({ sub: "ümit", exp })).toString("base64url")}.c`;
    const look = async (v, answer) => {
      await v.page.addInitScript(() => { Math.random = () => 0; window.dropgateSignIn = "https://shop.example/in?back={return}"; });
      const asked = [];
      await v.page.route(/\/v1\//, (route) => {
        asked.push(new URL(route.request().url()).pathname);
        if (asked.at(-1).endsWith("/me")) return route.fulfill(answer);
        return route.fulfill({ json: { state: "not-open", capacity: 5, remaining: 5, opens_at, closes_at: null, server_time: Date.now(), server_time_latest: Date.now() } });
      });
      return asked;
    };
    const [refused, none] = [problem(401, "unauthenticated"), problem(404, "no-claim")];
    for (const [exp, answer, told] of [
      [(opens_at - 60_000) / 1000, none, /^Your sign-in ends at .*, before the opening\. Coupons are for signed-in visitors\.$/],
      [(opens_at + 60_000) / 1000, refused, /^Coupons are for signed-in visitors\.$/],
    ]) {
      const v = await visitor();
      const asked = await look(v, answer);
      await v.open("later", `#token=${token(exp)}`);
      await v.page.waitForSelector("#signin:not([hidden])");
      assert.equal(await v.page.getAttribute("main", "data-phase"), "waiting");
      assert.match(await v.says("note"), told);
      assert.equal(await v.page.getAttribute("#signin", "href"), `https://shop.example/in?back=${encodeURIComponent(`${gate}/c/later`)}`);
      await photograph(v, answer === none ? "token-ends" : "token-refused");
      assert.ok(asked.filter((path) => path.endsWith("/me")).length <= 1, "one look");
      await v.leave();
    }
    // A good one: it waits for the opening, having looked once, and promises only what is true.
    const v = await visitor();
    const asked = await look(v, { json: { slot: 3, code: "ABCD-EFGH-JKMN", status: "issued" } });
    await v.open("later", `#token=${token((opens_at + 60_000) / 1000)}`);
    await v.phase("issued");
    assert.match(await v.says("note"), /^Copy your code now\./);
    assert.equal(asked.filter((path) => path.endsWith("/me")).length, 1);
    await v.leave();
  },

  async "the shop's hook comes first, and its sign-in address is a link"() {
    const v = await visitor({ locale: "ja-JP" });
    await v.page.addInitScript(() => { window.dropgateToken = async () => "from.the.shop"; window.dropgateSignIn = "https://shop.example/in"; });
    let seen;
    await v.page.route("**/claims", (route) => {
      seen = route.request().headers().authorization;
      return route.fulfill(problem(401, "unauthenticated"));
    });
    await v.open(campaigns.token, "#token=a.b.c");
    await v.phase("open");
    await v.page.click("#claim");
    await v.page.waitForSelector("#signin:not([hidden])");
    assert.equal(seen, "Bearer from.the.shop");
    assert.equal(await v.page.getAttribute("#signin", "href"), "https://shop.example/in");
    await photograph(v, "sign-in-link-ja");
    await v.leave();
  },

  async "offline is said, and the claim goes through when the visitor is back"() {
    const v = await visitor({ locale: "ko-KR" });
    await v.open(campaigns.token);
    await v.page.waitForSelector("#dev:not([hidden])");
    await v.sign_in("traveller");
    await v.context.setOffline(true);
    await v.page.click("#claim");
    await v.page.waitForFunction(() => document.getElementById("note").textContent.includes("오프라인"));
    await photograph(v, "offline-ko");
    await v.context.setOffline(false);
    await v.page.waitForSelector("#slot:not(:empty)", { timeout: 60_000 });
    await v.leave();
  },

  async "Content-Security-Policy stands on every address of the page"() {
    for (const path of ["/", `/c/${campaigns.open}`, "/page.js"]) {
      const response = await fetch(gate + path);
      assert.equal(response.status, 200, path);
      assert.match(response.headers.get("content-security-policy"), /default-src 'none'.*frame-ancestors 'none'/, path);
    }
  },

  async "a bad field of the drop file is ignored, and named"() {
    const base = `${gate}/drops/spring.json`;
    assert.deepEqual(read_drop(example, "en", base).problems, []);
    const { drop } = read_drop(example, "de-AT", base);
    assert.equal(drop.title, "Frühlingsaktion");
    assert.equal(drop.picture, `${gate}/drops/spring.svg`);
    assert.equal(drop.winner_link, "https://shop.example/cart?coupon={code}");
    const bad = {
      title: "", prize: 5, shop: "x".repeat(61), picture_alt: {}, winner_link_text: { en: " " }, picture: "https://elsewhere.example/a.png",
      logo: "//elsewhere.example/a.png", terms: "javascript:alert(1)", winner_link: "http://shop.example/{code}", loser_link: "https://a b",
      accent: "red", accent_dark: "#12345", background: "url(x)", background_dark: "#12345g", colour: "#fff", address: "data:text/html,x",
    };
    const { drop: none, problems } = read_drop(bad, "en", base);
    assert.deepEqual(none, {});
    assert.deepEqual(problems.map((text) => text.split(" ")[0]), Object.keys(bad));
    for (const file of [null, [], "text"]) assert.equal(read_drop(file, "en", base).problems.length, 1);
    assert.equal(read_drop({ terms: "/terms" }, "en", base).drop.terms, `${gate}/terms`);
    // Whatever the colours are, the texts on them can be read.
    for (const accent of ["#000", "#fff", "#ffd700", "#808080", "#e12d39"]) {
      const colors = colors_of(read_drop({ accent, background: accent }, "en", base).drop);
      for (const [text, on] of [["--shop-accent-ink", colors["--shop-accent"]], ["--shop-back-ink", colors["--shop-back"]], ["--shop-link", "#ffffff"]]) {
        assert.ok(contrast(colors[text], on) >= 4.5, `${accent}: ${text} ${colors[text]} on ${on}`);
      }
    }
  },

  async "an entry of the calendar is valid"() {
    const opens_at = Date.UTC(2026, 10, 27, 9);
    const text = calendar({ id: "spring-1", opens_at, summary: "Frühling; 20 %, " + "ü".repeat(60), url: "https://drop.example/c/spring", now: 0 });
    assert.ok(text.endsWith("END:VCALENDAR\r\n"));
    for (const line of text.split("\r\n")) assert.ok(Buffer.byteLength(line) <= 75, line);
    const lines = text.replaceAll("\r\n ", "").split("\r\n");
    for (const line of ["DTSTART:20261127T090000Z", "DTSTAMP:19700101T000000Z", "UID:spring-1@drop.example", "TRIGGER:-PT10M"]) {
      assert.ok(lines.includes(line), line);
    }
    assert.ok(lines.includes(`SUMMARY:Frühling\\; 20 %\\, ${"ü".repeat(60)}`));
  },

  async "drops.mjs names what is wrong with the files, and makes the preview of a link"() {
    const folder = mkdtempSync(join(tmpdir(), "drops-"));
    const run = () => spawnSync("node", [`${repository}edge/drops.mjs`, folder], { encoding: "utf8" });
    try {
      cpSync(`${repository}edge/public`, folder, { recursive: true });
      const redirects = readFileSync(join(folder, "_redirects"), "utf8");
      mkdirSync(join(folder, "drops"), { recursive: true });
      for (const file of ["spring.json", "spring.svg", "shop.svg"]) cpSync(`${repository}docs/drop-page/${file}`, join(folder, "drops", file));
      assert.equal(run().status, 0);
      const html = readFileSync(join(folder, "drops/spring.html"), "utf8");
      assert.match(html, /<title>Spring sale<\/title>/);
      assert.match(html, /og:image" content="https:\/\/drop\.shop\.example\/drops\/spring\.svg"/);
      assert.match(readFileSync(join(folder, "_redirects"), "utf8"), /^#.*\n\/c\/spring \/drops\/spring 200\n/);
      writeFileSync(join(folder, "drops/spring.json"), JSON.stringify({ ...example, accent: "red", picture: "none.png", title: '"><script>' }));
      const failed = run();
      assert.equal(failed.status, 1);
      assert.match(failed.stderr, /drops\/spring\.json: accent is no colour/);
      assert.match(failed.stderr, /drops\/spring\.json: picture does not exist/);
      writeFileSync(join(folder, "drops/spring.json"), JSON.stringify({ title: '"><script>' }));
      assert.equal(run().status, 0);
      assert.match(readFileSync(join(folder, "drops/spring.html"), "utf8"), /<title>&quot;&gt;&lt;script&gt;<\/title>/);
      rmSync(join(folder, "drops/spring.json"));
      assert.equal(run().status, 0);
      assert.equal(readFileSync(join(folder, "_redirects"), "utf8"), redirects);
    } finally {
      rmSync(folder, { recursive: true });
    }
  },

  async "every state in a preview, which sends nothing: phone, desktop, landscape, light, dark, right to left"() {
    let checked = 0;
    for (const [name, options, with_file] of [
      ["phone", {}, true], ["plain", {}, false], ["small", { viewport: { width: 320, height: 568 } }, true],
      ["landscape", { viewport: { width: 667, height: 375 } }, true], ["low", { viewport: { width: 568, height: 320 } }, false],
      ["desktop", { viewport: { width: 1280, height: 800 } }, true], ["ar", { locale: "ar-EG" }, true], ["he", { locale: "he-IL" }, false],
    ]) {
      const v = await visitor(options);
      if (with_file) await serve_drop_file(v);
      await v.page.addInitScript({ content: axe });
      for (const state of Object.keys(STATES)) {
        await v.page.goto(`${gate}/c/spring?preview=${state}`);
        await v.page.waitForSelector("#preview:not([hidden])");
        if (with_file) await v.page.waitForSelector("#campaign:not([hidden])");
        if (state !== "loading") await v.page.waitForFunction(() => !["loading", ""].includes(document.querySelector("main").dataset.phase));
        const { width, height, direction, buttons, brand } = await v.page.evaluate(() => {
          const boxes = [...document.querySelectorAll(".action > .big")].map((it) => it.getBoundingClientRect());
          return {
            width: document.documentElement.scrollWidth - innerWidth, height: innerHeight, direction: document.documentElement.dir,
            buttons: boxes.filter((box) => box.height).map((box) => box.bottom), brand: document.getElementById("shop").textContent,
          };
        });
        assert.ok(width <= 0, `${name} ${state}: ${width} px too wide`);
        assert.ok(!buttons.length || buttons[0] <= height, `${name} ${state}: the button ends at ${buttons[0]} of ${height}`);
        assert.equal(direction, ["ar", "he"].includes(name) ? "rtl" : "ltr");
        assert.ok(brand, `${name} ${state}: no name above the card`);
        for (const colorScheme of ["phone", "plain"].includes(name) ? ["light", "dark"] : ["light"]) {
          await v.page.emulateMedia({ colorScheme });
          if (["phone", "plain", "ar", "he"].includes(name)) {
            const { violations } = await v.page.evaluate(() => window.axe.run());
            const found = violations.flatMap(({ id, nodes }) => nodes.map(({ target, failureSummary }) => `${id} ${target}: ${failureSummary}`));
            assert.deepEqual(found, [], `${name} ${state} ${colorScheme}`);
            checked++;
          }
          if (pictures) await v.page.screenshot({ path: `${pictures}/preview-${state}-${name}-${colorScheme}.png`, fullPage: true });
        }
      }
      for (const [state, button] of [["open", "#claim"], ["sold-out", "#check"]]) {
        await v.page.goto(`${gate}/c/spring?preview=${state}`);
        await v.page.click(button);
        // A request of its own comes after whatever the button has sent.
        await v.page.evaluate(() => fetch("/icon.svg"));
      }
      assert.deepEqual(v.asked.filter((line) => line.includes("/v1/")), [], "a preview sent something");
      assert.deepEqual(v.warnings, []);
      await v.leave();
    }
    console.log(`      ${checked} states without a violation of axe-core's rules`);
  },

  async "no language is too long for a small phone, and no user's font size for the page"() {
    for (const lang of Object.keys(WORDS)) {
      const v = await visitor({ locale: lang, viewport: { width: 320, height: 568 } });
      await serve_drop_file(v);
      for (const state of ["waiting-days", "open", "issued", "sold-out"]) {
        await v.page.goto(`${gate}/c/spring?preview=${state}`);
        await v.page.waitForSelector("#campaign:not([hidden])");
        assert.equal(await v.page.getAttribute("html", "lang"), lang);
        const size = () => v.page.evaluate(() => ({
          over: document.documentElement.scrollWidth - innerWidth,
          cut: [...document.querySelectorAll("button, a.big")].filter((it) => it.scrollWidth > it.clientWidth + 1).map((it) => it.id),
        }));
        assert.deepEqual(await size(), { over: 0, cut: [] }, `${lang} ${state}`);
        await v.page.evaluate(() => (document.documentElement.style.fontSize = "200%"));
        assert.deepEqual(await size(), { over: 0, cut: [] }, `${lang} ${state} with letters twice as large`);
      }
      await v.leave();
    }
  },

  async "winners copy, share, save and use their code; everybody else gets a next step"() {
    const v = await visitor();
    await serve_drop_file(v);
    await v.page.addInitScript(() => { navigator.share = async (what) => void (window.shared = what); });
    await v.page.goto(`${gate}/c/spring?preview=issued`);
    await v.page.waitForSelector("#use:not([hidden])");
    const code = await v.says("code");
    assert.equal(await v.page.getAttribute("#use", "href"), `https://shop.example/cart?coupon=${code}`);
    assert.equal(await v.says("use"), "Choose your shoes");
    await v.page.click("#share");
    const shared = await v.page.evaluate(() => window.shared);
    assert.equal(shared.title, "Spring sale");
    const [download] = await Promise.all([v.page.waitForEvent("download"), v.page.click("#save")]);
    assert.equal(download.suggestedFilename(), "spring.txt");
    const saved = readFileSync(await download.path(), "utf8");
    assert.equal(saved, shared.text);
    for (const part of [code, "42", "20 % off any pair of shoes", `${gate}/c/spring\n`]) assert.ok(saved.includes(part), part);
    for (const state of ["sold-out", "closed", "refused"]) {
      await v.page.goto(`${gate}/c/spring?preview=${state}`);
      await v.page.waitForSelector("#next:not([hidden])");
      assert.equal(await v.page.getAttribute("#next", "href"), "https://shop.example/outlet");
      assert.equal(await v.page.isVisible("#use"), false);
    }
    assert.equal(await v.page.getAttribute("#terms", "href"), "https://shop.example/spring/terms");
    await v.leave();
  },

  async "only the bad fields of a drop file are ignored"() {
    const v = await visitor();
    await v.page.route("**/drops/spring.json", (route) => route.fulfill({ json: { ...example, accent: "red", loser_link: "javascript:alert(1)" } }));
    await v.page.goto(`${gate}/c/spring?preview=sold-out`);
    await v.page.waitForSelector("#campaign:not([hidden])");
    assert.equal(await v.says("campaign"), "Spring sale");
    assert.equal(await v.page.isVisible("#next"), false);
    const problems = v.warnings.filter((text) => text.startsWith("drop file /drops/spring.json: "));
    assert.deepEqual(problems.map((text) => text.split(" ")[3]).sort(), ["accent", "loser_link"]);
    // The pictures do not exist here: the page closes their gaps.
    await v.page.waitForSelector("#picture", { state: "hidden" });
    await v.leave();
  },

  async "before the opening: the tab counts down, the screen stays on, and the calendar can have it"() {
    const v = await visitor();
    await v.page.addInitScript(() => {
      window.locks = [];
      navigator.wakeLock.request = async (kind) => {
        const lock = Object.assign(new EventTarget(), { release: async () => void window.locks.push("released") });
        window.locks.push(kind);
        return lock;
      };
    });
    await v.page.goto(`${gate}/c/spring?preview=waiting`);
    await v.page.waitForFunction(() => /^00:01:\d\d · Coupon drop$/.test(document.title));
    await v.page.waitForFunction(() => window.locks.length === 1);
    assert.equal(await v.page.isVisible("#calendar"), false);
    await v.page.goto(`${gate}/c/spring?preview=waiting-days`);
    await v.page.waitForSelector("#calendar:not([hidden])");
    assert.match(await v.page.title(), /^3 d .*00:01:\d\d.* · Coupon drop$/);
    assert.deepEqual(await v.page.evaluate(() => window.locks), []);
    const [download] = await Promise.all([v.page.waitForEvent("download"), v.page.click("#calendar")]);
    assert.equal(download.suggestedFilename(), "spring.ics");
    assert.match(readFileSync(await download.path(), "utf8"), /^BEGIN:VCALENDAR\r\n/);
    await v.leave();
  },

  async "a claim has a fresh Turnstile token at the opening, and another one when that is refused"() {
    const v = await visitor({ others: [TURNSTILE] });
    const opens_at = Date.now() + 4_000;
    const tokens = [];
    await v.page.route(`${TURNSTILE}/**`, (route) => route.fulfill({
      contentType: "text/javascript",
      // Makes a token at once, and another with each reset.
      body: `let options, n = 0; const make = () => options.callback("token-" + ++n);
        window.turnstile = { render: (_, it) => { options = it; setTimeout(make); return "w"; }, reset: () => setTimeout(make) };
        dropgateReady();`,
    }));
    await v.page.route(/\/v1\//, (route) => {
      if (route.request().method() === "POST") {
        tokens.push(route.request().headers()["x-challenge"]);
        if (tokens.length === 1) return route.fulfill(problem(403, "challenge-failed"));
        return route.fulfill({ json: { slot: 1, code: "ABCD-EFGH-JKMN-PQRS", status: "issued" } });
      }
      const now = Date.now();
      const state = now < opens_at ? "not-open" : "open";
      const headers = { "x-challenge-site-key": "0x4AAAAAAA", "content-type": "application/json" };
      return route.fulfill({ headers, json: { state, capacity: 5, remaining: 5, opens_at, closes_at: null, server_time: now, server_time_latest: now } });
    });
    await v.open("challenged", "#token=a.b.c");
    await v.phase("waiting");
    // The token is there before the opening.
    const frame = await v.page.waitForSelector("#challenge iframe", { state: "attached" });
    assert.match(await frame.getAttribute("src"), /\/challenge#key=0x4AAAAAAA&lang=en$/);
    await v.phase("open");
    await v.page.click("#claim");
    await v.phase("issued");
    assert.deepEqual(tokens, ["token-1", "token-2"]);
    assert.equal(await v.page.locator("#challenge iframe").count(), 0, "the widget stays without use");
    await v.leave();

    // Only the frame may load from Turnstile, and only this page may frame it.
    const policy = async (path) => (await fetch(gate + path)).headers.get("content-security-policy");
    assert.ok(!(await policy("/c/challenged")).includes("cloudflare"));
    assert.match(await policy("/challenge"), /script-src 'self' https:\/\/challenges\.cloudflare\.com;.*frame-ancestors 'self'/);
  },

  async "a blocked challenge refuses nobody: the gate decides, and the next press tries again"() {
    const v = await visitor({ others: [TURNSTILE] });
    let blocked = true;
    const script = `window.turnstile = { render: (_, options) => void setTimeout(() => options.callback("token")) }; dropgateReady();`;
    await v.page.route(`${TURNSTILE}/**`, (route) => (blocked ? route.abort() : route.fulfill({ contentType: "text/javascript", body: script })));
    const tokens = [];
    await v.page.route(/\/v1\//, (route) => {
      const token = route.request().headers()["x-challenge"];
      if (route.request().method() === "POST") {
        tokens.push(token);
        return route.fulfill(token ? { json: { slot: 1, code: "ABCD-EFGH-JKMN-PQRS", status: "issued" } } : problem(403, "challenge-failed"));
      }
      const headers = { "x-challenge-site-key": "0x4AAAAAAA", "content-type": "application/json" };
      return route.fulfill({ headers, json: { state: "open", capacity: 5, remaining: 5, opens_at: 0, closes_at: null, server_time: Date.now(), server_time_latest: Date.now() } });
    });
    await v.open("blocked", "#token=a.b.c");
    await v.phase("open");
    await v.page.click("#claim");
    await v.page.waitForFunction((text) => document.getElementById("note").textContent === text, WORDS.en.challenge_failed);
    assert.deepEqual(tokens, [undefined, undefined, undefined]);
    blocked = false;
    await v.page.click("#claim");
    await v.phase("issued");
    assert.equal(tokens.at(-1), "token");
    await v.leave();
  },

  async "a rejected request is reported in the language of the page, without English"() {
    const v = await visitor({ locale: "tr-TR" });
    await v.page.route("**/claims", (route) => route.fulfill(problem(400, "bad-request", { detail: "a user id has 1 to 128 bytes" })));
    await v.open(campaigns.token, "#token=a.b.c");
    await v.phase("open");
    await v.page.click("#claim");
    await v.page.waitForFunction((text) => document.getElementById("note").textContent === text, WORDS.tr.failed_note);
    assert.deepEqual(v.warnings.filter((text) => text.includes("128 bytes")).length, 1);
    await v.leave();
  },

  async "a page that watches a paused campaign sees soon that it continues"() {
    const v = await visitor();
    await v.page.addInitScript(() => { Math.random = () => 0.999; });
    let looks = 0;
    await v.page.route(/\/v1\//, (route) => {
      if (route.request().url().endsWith("/me")) return route.fulfill(problem(401, "unauthenticated"));
      const state = looks++ ? "open" : "paused";
      return route.fulfill({ json: { state, capacity: 5, remaining: 5, opens_at: 0, closes_at: null, server_time: Date.now(), server_time_latest: Date.now() } });
    });
    await v.open("resumed");
    await v.phase("paused");
    await v.phase("open", 12_000);
    await v.leave();
  },

  async "a person who mistypes a path gets a page, a program a problem"() {
    const v = await visitor({ locale: "he-IL" });
    const response = await v.page.goto(`${gate}/campaign/spring`);
    assert.equal(response.status(), 404);
    await v.page.waitForFunction((text) => document.getElementById("title")?.textContent === text, WORDS.he.missing_title);
    assert.equal(await v.page.getAttribute("html", "dir"), "rtl");
    await photograph(v, "missing-he");
    await v.page.click("#home");
    await v.phase("start");
    const program = await fetch(`${gate}/campaign/spring`);
    assert.deepEqual([program.status, program.headers.get("content-type")], [404, "application/problem+json"]);
    await v.leave();
  },
};

const chosen = Object.entries(tests).filter(([name]) => name.includes(process.env.ONLY ?? ""));
assert.ok(chosen.length, `no test has ${process.env.ONLY} in its name`);
let failed = 0;
for (const [name, run] of chosen) {
  try {
    await run();
    console.log(`ok    ${name}`);
  } catch (error) {
    failed++;
    console.log(`FAIL  ${name}\n${error.stack}`);
  }
}
await browser.close();
process.exitCode = failed ? 1 : 0;
