// The drop page: a countdown by the gate's clock, one button, and the result.

import { Challenge } from "./challenge.js";
import { colors_of, read_drop } from "./drop.js";
import { calendar, save } from "./files.js";
import { Clock, send as send_to_gate, pause, pause_ms } from "./gate.js";
import { direction, speak } from "./words.js";

const $ = (id) => document.getElementById(id);
const wanted = navigator.languages ?? [navigator.language ?? "en"];
const { lang, say } = speak(wanted, window.dropgateWords);
/** Dates and numbers in the format of the user's country. */
const locale = wanted.find((tag) => tag.split("-")[0] === lang.split("-")[0]) ?? lang;
const clock = new Clock();
/** A press up to so much before the opening is repeated at the opening, this much spread. */
const EARLY_MS = 2000;
const EARLY_SPREAD_MS = 150;
/** The token is tried no later than this before the opening. */
const EARLY_LOOK_MS = 60_000;
/** The clock looks again, so often at most, until its error is this small. */
const CLOCK_LOOKS = 4;
const CLOCK_ERROR_MS = 15;
/** The page waits so long for the drop file before it shows anything: nothing moves when it arrives. */
const DROP_FILE_MS = 1500;
/** The screen stays on from so long before the opening until so long after it. */
const AWAKE_MS = 120_000;
/** The challenge begins at a random time in this span before the opening: its token is valid for 300 s. */
const CHALLENGE_FROM_MS = 120_000;
const CHALLENGE_TO_MS = 20_000;
const CHALLENGE_TRIES = 3;
/** An entry of the calendar is offered until so long before the opening. */
const CALENDAR_MS = 900_000;

/** The state of the page. */
const page = {
  id: /^\/c\/([a-z0-9-]{1,64})\/?$/i.exec(location.pathname)?.[1].toLowerCase() ?? null,
  bad_id: /^\/c\/./.test(location.pathname),
  campaign: null, // the response of the gate
  site_key: null, // of the challenge that claims need
  unknown: false,
  claim: null,
  asking: false, // a claim is under way
  signed_out: false, // the gate does not accept the user's token
  dev: false, // the gate accepts X-User-Id
  linked: false, // the token came with the link, and ends with this tab
  expires_ms: Infinity, // when it is no longer valid, if it came with the link
  note: "",
  drop: {}, // the valid fields of the drop file
  drop_ready: false, // the drop file was read, or it took too long
};
const preview = new URLSearchParams(location.search).get("preview");
/** In a preview nothing reaches the gate, whatever is pressed. */
const send = preview === null ? send_to_gate : async () => ({ word: "undecided", wait_ms: 600_000 });
const challenge = new Challenge($("challenge"));
let challenge_fails = 0;
// A campaign may be called anything, also "token".
const store_key = `dropgate:pressed:${page.id}`;

// --- who the user is -----------------------------------------------------------------------------

/** The storage may be disabled; without it the page works until it is closed. */
const memory = {};
const keep = (storage, key, value) => {
  memory[key] = value;
  try {
    value === null ? window[storage].removeItem(key) : window[storage].setItem(key, value);
  } catch {
    // `memory` has it.
  }
};
const recall = (storage, key) => {
  try {
    return window[storage].getItem(key) ?? memory[key] ?? null;
  } catch {
    return memory[key] ?? null;
  }
};

// A token must not stay in the URL: URLs are visible, shared and stored.
const fragment = new URLSearchParams(location.hash.slice(1));
if (fragment.has("token")) {
  keep("sessionStorage", "dropgate:token", fragment.get("token"));
  history.replaceState(null, "", location.pathname + location.search);
}

async function identity() {
  const hook = window.dropgateToken;
  const asked = typeof hook === "function" && Promise.resolve().then(hook).catch(() => null);
  const token = asked ? await asked : recall("sessionStorage", "dropgate:token");
  page.linked = Boolean(token) && typeof hook !== "function";
  page.expires_ms = page.linked ? expiry_ms(token) : Infinity;
  if (token) return { authorization: `Bearer ${token}` };
  const user = page.dev && recall("sessionStorage", "dropgate:user");
  // A header's value is bytes; the gate reads them as UTF-8.
  return user ? { "x-user-id": String.fromCharCode(...new TextEncoder().encode(user)) } : {};
}

/** What the token says of its end, ms since the epoch. Whether it is valid, only the gate can tell. */
function expiry_ms(token) {
  try {
    const { exp } = JSON.parse(atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/")));
    return Number.isFinite(exp) ? 1000 * exp : Infinity;
  } catch {
    return Infinity;
  }
}

/** A 401: the token is not valid. */
function sign_out(answer) {
  page.signed_out = true;
  page.dev = answer.dev;
  keep("sessionStorage", "dropgate:token", null);
}

// --- the gate -------------------------------------------------------------------------------------

const path = (rest = "") => `/v1/campaigns/${page.id}${rest}`;

/** Claims, and retries until there is a decision. */
async function claim() {
  if (preview !== null) {
    page.note = say("preview_label");
    return render();
  }
  page.asking = true;
  page.note = "";
  challenge_fails = 0;
  // After a reload the page looks for the claim. Only a mark is stored: the code must not be found on this device.
  keep("localStorage", store_key, "1");
  render();
  for (let tries = 0; page.asking; tries++) {
    const answer = await send("POST", path("/claims"), { ...(await identity()), ...(await challenge_header()) });
    const settled = decide(answer);
    if (settled) break;
    render();
    await pause(retry_ms(answer, tries), ...(navigator.onLine ? [] : ["online"]));
  }
  page.asking = false;
  render();
  if (page.claim) {
    $("title").focus();
    await follow();
  }
}

/** The header for a gate that requires a challenge. */
async function challenge_header() {
  if (!page.site_key) return {};
  begin_challenge();
  const note = page.note;
  const slow = setTimeout(() => { page.note ||= say("challenge_note"); render(); }, 500);
  const token = await challenge.token();
  clearTimeout(slow);
  page.note = note;
  return token ? { "x-challenge": token } : {};
}

function begin_challenge() {
  challenge.begin(page.site_key, lang);
}

/** Starts the challenge so that its token is there at the opening and fresh, not at the same time for the whole crowd. */
let challenge_at_ms;
function plan_challenge() {
  const { opens_at, state } = page.campaign;
  if (!page.site_key || page.asking) return;
  if (page.claim || !["open", "not-open", "paused"].includes(state)) return challenge.end();
  challenge_at_ms ??= CHALLENGE_TO_MS + Math.random() * (CHALLENGE_FROM_MS - CHALLENGE_TO_MS);
  if (state === "open" || opens_at - clock.now_ms() <= challenge_at_ms) begin_challenge();
}

/** How long to wait after a response that is no decision. A press that was early is repeated at the opening, as near to it
 *  as a crowd may: the user did not press late. */
function retry_ms({ word, wait_ms }, tries) {
  if (word !== "not-open") return pause_ms(tries, wait_ms);
  return Math.max(0, page.campaign.opens_at - clock.now_ms()) + EARLY_SPREAD_MS * Math.random();
}

/** Updates the state with the response to a claim. Returns whether it is a decision. */
function decide({ word, body, ...answer }) {
  switch (word) {
    case "claim":
      page.claim = body;
      return true;
    case "sold-out":
    case "closed":
      page.campaign = { ...page.campaign, state: word, remaining: 0 };
      return true;
    case "not-open":
      // If the clock was only a little ahead, the user need not press again.
      page.campaign = { ...page.campaign, state: "not-open", opens_at: body.opens_at };
      clock.sync(body, answer.sent_ms, answer.received_ms);
      return body.opens_at - clock.now_ms() > EARLY_MS;
    case "unknown-campaign":
      page.unknown = true;
      return true;
    case "unauthenticated":
      sign_out(answer);
      return true;
    case "challenge-failed":
      // A token is valid once, and for five minutes.
      challenge.reset();
      if (page.site_key && ++challenge_fails < CHALLENGE_TRIES) return false;
      page.note = say("challenge_failed");
      return true;
    case "paused":
    case "too-many-requests":
      page.note = say(word === "paused" ? "paused_note" : "busy_note");
      return false;
    case "undecided":
    case "unavailable":
    case "misconfigured":
      page.note = say(navigator.onLine ? "undecided_note" : "offline_note");
      return false;
    default:
      // The detail is English, and for whoever runs the gate.
      console.warn(word, body.detail ?? body.title);
      page.note = say("failed_note");
      return true;
  }
}

/** Looks for a claim that the user already has. Returns the response. */
async function look() {
  const answer = await send("GET", path("/claims/me"), await identity());
  if (answer.word === "claim") page.claim = answer.body;
  if (answer.word === "no-claim") keep("localStorage", store_key, null);
  if (answer.word === "unauthenticated") sign_out(answer);
  else if (answer.word === "claim" || answer.word === "no-claim") page.signed_out = false;
  return answer;
}

/** Looks once at a random moment before the opening, so that nobody learns only by pressing that the token is refused, and
 *  the crowd does not ask at the same time. */
async function look_early() {
  const span_ms = page.campaign.opens_at - clock.now_ms() - EARLY_LOOK_MS;
  if (span_ms <= 0) return;
  await pause(Math.random() * Math.min(span_ms, 3_600_000));
  await visible();
  if (page.claim || page.asking || page.signed_out || phase() !== "waiting") return;
  await look();
  render();
}

/** Polls an admitted claim until its coupon is written. */
async function follow() {
  for (let tries = 0; page.claim?.status === "admitted"; tries++) {
    await pause(pause_ms(tries, 800));
    await visible();
    const { word } = await look();
    if (word === "unauthenticated") break;
    render();
  }
}

/** A page in the background sends nothing. */
async function visible() {
  while (document.hidden) await pause(60_000, "visibilitychange");
}

/** Polls the campaign: rarely, each page at its own time, and never around the opening. */
async function watch() {
  for (let failures = 0, looks = 0; ; ) {
    const { word, body, wait_ms, site_key, sent_ms, received_ms } = await send("GET", path());
    if (word === "campaign") {
      page.site_key = site_key;
      failures = 0;
      clock.sync(body, sent_ms, received_ms);
      page.campaign = body;
      if (!looks++ && body.state === "not-open") look_early();
      page.unknown = false;
      if (!page.asking && page.note === say("unreachable_note")) page.note = "";
    } else if (word === "unknown-campaign" || word === "bad-request") {
      page.unknown = true;
    } else {
      failures++;
      if (!page.asking && !page.claim) page.note = say(navigator.onLine ? "unreachable_note" : "offline_note");
    }
    render();
    if (page.claim || page.unknown) return;
    await pause(failures ? pause_ms(failures, Math.max(wait_ms, 2000)) : until_next_poll_ms(looks), ...(failures ? ["online"] : []));
    await visible();
    // While the user's own claim is under way, its response says more.
    while (page.asking) await pause(5000);
    if (page.claim) return;
  }
}

function until_next_poll_ms(looks) {
  const { state, opens_at } = page.campaign;
  const spread = (from_s, to_s) => 1000 * (from_s + Math.random() * (to_s - from_s));
  if (state === "open" || state === "paused") return spread(5, 10);
  if (state !== "not-open") return spread(30, 60);
  const ahead_ms = opens_at - clock.now_ms();
  if (looks < CLOCK_LOOKS && clock.error_ms > CLOCK_ERROR_MS && ahead_ms > 5000) return spread(0.5, 2);
  const next_ms = ahead_ms > 300_000 ? spread(60, 120) : spread(15, 30);
  return next_ms > ahead_ms - 10_000 ? Math.max(ahead_ms, 0) + spread(4, 12) : next_ms;
}

// --- the view -------------------------------------------------------------------------------------

function phase() {
  if (!page.id) return "start";
  if (page.claim) return page.claim.status;
  if (page.unknown) return "unknown";
  if (page.asking) return "asking";
  if (!page.campaign?.state) return "loading";
  const { state, opens_at, closes_at } = page.campaign;
  const now = clock.now_ms();
  if (closes_at && now >= closes_at) return "closed";
  if (state === "not-open") return now >= opens_at ? "open" : "waiting";
  return state;
}

const TITLES = {
  start: "start_title", loading: "loading_title", unknown: "unknown_title", waiting: "waiting_title", open: "open_title",
  asking: "asking_title", paused: "paused_title", "sold-out": "sold_out_title", closed: "closed_title",
  admitted: "won_title", issued: "won_title", refused: "refused_title",
};

/** Changes a text only where it differs: a screen reader reads each change aloud. */
function put(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}

function show(id, shown) {
  $(id).hidden = !shown;
}

/** What the tab calls the page. */
const name = () => page.drop.title ?? say("title");
const number = (n) => (Number.isFinite(n) ? n.toLocaleString(locale) : "…");

let announced = "";

function render() {
  const now = page.drop_ready ? phase() : "loading";
  const { campaign, claim } = page;
  const key = now.replace("-", "_");
  const won = now === "admitted" || now === "issued";
  const before = ["waiting", "open"].includes(now);
  const time_of = (ms) => new Date(ms).toLocaleString(locale, { dateStyle: "medium", timeStyle: "medium" });
  const time = campaign?.opens_at && time_of(campaign.opens_at);

  $("stage").dataset.phase = now;
  put("title", say(TITLES[now] ?? "loading_title"));
  if (now !== "waiting") document.title = `${say(TITLES[now] ?? "loading_title")} · ${name()}`;
  show("countdown", now === "waiting");
  show("ticket", won);
  if (won) {
    put("slot", number(claim.slot));
    put("code", claim.code ?? "");
  }
  put("fact", say(`${key}_fact`, { time, left: number(campaign?.remaining), all: number(campaign?.capacity) }));

  const ends_early = now === "waiting" && page.expires_ms <= campaign.opens_at;
  const sign_in = before && !page.dev && (page.signed_out || ends_early);
  const link = sign_in && window.dropgateSignIn?.replaceAll("{return}", encodeURIComponent(location.href));
  show("start", now === "start");
  show("signin", link);
  if (link) $("signin").href = link;
  show("copy", won);
  show("share", won && navigator.share);
  show("save", won);
  show("calendar", now === "waiting" && campaign.opens_at - clock.now_ms() > CALENDAR_MS);
  show("use", won && page.drop.winner_link);
  if (won) $("use").href = page.drop.winner_link?.replaceAll("{code}", encodeURIComponent(claim.code ?? "")) ?? "";
  show("next", page.drop.loser_link && ["sold-out", "closed", "refused", "unknown"].includes(now));
  show("claim", !won && !link && !["start", "unknown", "refused", "loading"].includes(now));
  const usable = now === "open" && !sign_in && !(page.dev && page.signed_out);
  // Not `disabled`: it keeps the focus, so the user can wait with a finger on it.
  $("claim").setAttribute("aria-disabled", String(!usable));
  put("claim", say(`${key}_button`));
  show("dev", page.dev && before);
  show("check", ["sold-out", "closed"].includes(now) && !page.note && !page.signed_out);

  let note = page.note;
  if (sign_in) {
    const why = ends_early ? `${say("expires_note", { time: time_of(page.expires_ms) })} ` : "";
    note = why + say(link ? "signin_note" : "signin_missing");
  }
  else if (!note && before && page.signed_out) note = say("dev_note");
  else if (!note && now === "waiting") note = say("early_note");
  else if (!note && now === "start" && page.bad_id) note = say("start_bad");
  else if (!note) note = say(`${key}_note`);
  if (won && !["copied", "copy_failed"].some((k) => note === say(k))) note = say(page.linked ? `${key}_linked_note` : `${key}_note`);
  put("note", note);

  // A change is read aloud once, without the code: the user may have it read letter by letter.
  const announcement = `${$("title").textContent} ${won ? `${say("slot")}: ${claim.slot}.` : ""} ${now === "waiting" ? time : ""} ${note}`;
  if (announcement !== announced) put("live", (announced = announcement));
  tick();
}

let ticking;

/** The countdown and the opening. It runs by the page's own clock, so the opening sends no request. */
function tick() {
  clearTimeout(ticking);
  update_wake_lock();
  if (page.campaign) plan_challenge();
  const now = $("stage").dataset.phase;
  const { opens_at, closes_at } = page.campaign ?? {};
  const edge = now === "waiting" ? opens_at : now === "open" ? closes_at : null;
  if (!edge) return;
  const left_ms = edge - clock.now_ms();
  if (left_ms <= 0) return void render();
  if (now === "waiting") {
    const s = Math.ceil(left_ms / 1000);
    const two = (n) => n.toLocaleString(locale, { minimumIntegerDigits: 2 });
    const hms = `${two(Math.floor(s / 3600) % 24)}:${two(Math.floor(s / 60) % 60)}:${two(s % 60)}`;
    // Isolated: its order is the same in every direction of writing.
    const left = s >= 86_400 ? say("days", { n: number(Math.floor(s / 86_400)), time: `\u2066${hms}\u2069` }) : hms;
    put("countdown", left);
    document.title = `${left} · ${name()}`;
    $("countdown").classList.toggle("long", s >= 86_400);
    if ([600, 60, 10].includes(s)) put("live", `${say("waiting_title")} ${hms}`);
  }
  ticking = setTimeout(tick, Math.min(left_ms % 1000 || 1000, left_ms));
}

/** The screen must not switch off in the last seconds. */
let lock = null;
async function update_wake_lock() {
  const now = $("stage").dataset.phase;
  const from_opening_ms = Math.abs((page.campaign?.opens_at ?? Infinity) - clock.now_ms());
  const wanted = now === "asking" || (["waiting", "open"].includes(now) && from_opening_ms <= AWAKE_MS);
  if (wanted === Boolean(lock) || (wanted && document.hidden)) return;
  if (!wanted) {
    const held = await lock;
    lock = null;
    return void held?.release();
  }
  lock = navigator.wakeLock?.request("screen").catch(() => null) ?? Promise.resolve(null);
  // The browser releases it when the page is hidden.
  (await lock)?.addEventListener("release", () => (lock = null));
}

// --- user actions ---------------------------------------------------------------------------------

$("claim").onclick = () => $("claim").getAttribute("aria-disabled") === "false" && claim();

$("copy").onclick = async () => {
  const done = await navigator.clipboard?.writeText(page.claim.code).then(() => "copied", () => "copy_failed");
  if (done !== "copied") getSelection().selectAllChildren($("code"));
  page.note = say(done ?? "copy_failed");
  render();
};

/** Without a token and without a preview. */
const page_url = () => location.origin + location.pathname;

/** The coupon as a text, to be kept or sent to another device of the user. */
function coupon_text() {
  const { slot, code } = page.claim;
  const { title, prize, shop, terms } = page.drop;
  const numbers = [`${say("code")}: ${code}`, `${say("slot")}: ${slot}`];
  const lines = [name(), title && prize, shop, ...numbers, page_url(), terms];
  return `${lines.filter(Boolean).join("\n")}\n`;
}

$("save").onclick = () => save(`${page.id}.txt`, "text/plain;charset=utf-8", coupon_text());

// A user who closes the dialog has shared nothing: no error.
$("share").onclick = () => navigator.share({ title: name(), text: coupon_text() }).catch(() => {});

$("calendar").onclick = () => {
  const { opens_at } = page.campaign;
  const text = calendar({ id: `${page.id}-${opens_at}`, opens_at, summary: name(), url: page_url() });
  save(`${page.id}.ics`, "text/calendar;charset=utf-8", text);
};

$("check").onclick = async () => {
  const { word } = await look();
  page.note = { claim: "", "no-claim": say("check_none"), unauthenticated: say("signin_missing") }[word] ?? say("unreachable_note");
  render();
  if (page.claim) await follow();
};

$("start").onsubmit = (event) => {
  event.preventDefault();
  const id = $("start-id").value.trim().toLowerCase();
  if (/^[a-z0-9-]{1,64}$/.test(id)) return location.assign(`/c/${id}`);
  page.note = say("start_bad");
  $("start-id").setAttribute("aria-invalid", "true");
  $("start-id").focus();
  render();
};

$("dev").onsubmit = (event) => {
  event.preventDefault();
  const user = $("dev-id").value.trim();
  keep("sessionStorage", "dropgate:user", user || null);
  page.signed_out = !user;
  page.note = "";
  render();
  $("claim").focus();
};

addEventListener("visibilitychange", () => document.hidden || render());
addEventListener("offline", () => !page.claim && page.id && ((page.note = say("offline_note")), render()));
addEventListener("online", () => page.note === say("offline_note") && ((page.note = ""), render()));

// --- begin ----------------------------------------------------------------------------------------

/** Reads the drop file, and shows its texts, pictures and colours. Without the file, or without any of its
 *  fields, the page is complete too. */
async function apply_drop_file() {
  const url = new URL(`/drops/${page.id}.json`, location.href).href;
  const response = page.id && (await fetch(url, { credentials: "omit", signal: AbortSignal.timeout(10_000) }).catch(() => null));
  if (response?.ok) {
    const file = await response.json().catch(() => null);
    const { drop, problems } = read_drop(file, lang, url);
    for (const problem of problems) console.warn(`drop file /drops/${page.id}.json: ${problem}; it is ignored`);
    page.drop = drop;
  }
  page.drop_ready = true;
  const { title, prize, picture, picture_alt, shop, logo, terms } = page.drop;
  const { style } = document.documentElement;
  for (const [property, value] of Object.entries(colors_of(page.drop))) style.setProperty(property, value);
  put("shop", shop ?? say("title"));
  for (const [id, text] of [["campaign", title], ["prize", prize]]) {
    put(id, text ?? "");
    show(id, text);
  }
  for (const [id, src] of [["picture", picture], ["logo", logo]]) {
    if (!src) continue;
    $(id).src = src;
    show(id, true);
    $(id).onerror = () => show(id, false);
  }
  $("picture").alt = picture_alt ?? "";
  if (shop && !logo) show("logo", false);
  show("terms", terms);
  if (terms) $("terms").href = terms;
  put("use", page.drop.winner_link_text ?? say("use"));
  put("next", page.drop.loser_link_text ?? say("next"));
  if (page.drop.loser_link) $("next").href = page.drop.loser_link;
  render();
}

/** Shows a state without the gate, under a notice. */
async function begin_preview() {
  const { STATES } = await import("./preview.js");
  const state = Object.hasOwn(STATES, preview) ? preview : "waiting";
  for (const one of Object.keys(STATES)) $("preview-state").add(new Option(one, one, false, one === state));
  $("preview-state").onchange = () => location.replace(`?preview=${$("preview-state").value}`);
  show("preview", true);
  const { note_key, ...known } = STATES[state]();
  Object.assign(page, known, { note: note_key ? say(note_key) : "" });
  render();
}

Object.assign(document.documentElement, { lang, dir: direction(lang) });
for (const element of document.querySelectorAll("[data-text]")) element.textContent = say(element.dataset.text);
put("shop", say("title"));
$("dev-id").value = recall("sessionStorage", "dropgate:user") ?? "";
apply_drop_file();
setTimeout(() => ((page.drop_ready = true), render()), DROP_FILE_MS);
if (preview !== null && page.id) {
  begin_preview();
} else if (page.id) {
  watch();
  begin();
}
render();

/** Shows the claim of a user who pressed before. Tells a user without a token early how to sign in. */
async function begin() {
  const user = recall("sessionStorage", "dropgate:user");
  const pressed = recall("localStorage", store_key);
  const unnamed = !Object.keys(await identity()).length;
  if (unnamed) {
    const answer = await look();
    if (answer.dev && user) page.signed_out = false;
  }
  for (let tries = 0; pressed && !page.claim && !page.signed_out; tries++) {
    const answer = await look();
    if (answer.word === "claim" || answer.word === "no-claim" || page.signed_out) break;
    await pause(pause_ms(tries, answer.wait_ms), "online");
  }
  render();
  if (page.claim) await follow();
}
