// The drop page: a countdown by the gate's clock, one button, and what became of it.

import { Clock, ask, pause, pause_ms } from "./gate.js";
import { speak } from "./words.js";

const $ = (id) => document.getElementById(id);
const wanted = navigator.languages ?? [navigator.language ?? "en"];
const { lang, say } = speak(wanted, window.dropgateWords);
/** Dates and numbers as the visitor's country writes them. */
const locale = wanted.find((tag) => tag.split("-")[0] === lang.split("-")[0]) ?? lang;
const clock = new Clock();

/** All that the page knows. */
const know = {
  id: /^\/c\/([a-z0-9-]{1,64})\/?$/.exec(location.pathname)?.[1] ?? null,
  bad_id: /^\/c\/./.test(location.pathname),
  campaign: null, // the gate's answer, with `state` as the clock moves it on
  unknown: false,
  claim: null,
  asking: false,
  stranger: false, // the gate does not know who this is
  dev: false, // the gate takes X-User-Id
  note: "",
};
// A campaign may be called anything, also "token".
const store_key = `dropgate:pressed:${know.id}`;

// --- who the visitor is ---------------------------------------------------------------------------

/** The storage may be forbidden; the page works without it until it is left. */
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

// A token in the address must not stay there: addresses are shown, shared and kept.
const fragment = new URLSearchParams(location.hash.slice(1));
if (fragment.has("token")) {
  keep("sessionStorage", "dropgate:token", fragment.get("token"));
  history.replaceState(null, "", location.pathname + location.search);
}

async function identity() {
  const hook = window.dropgateToken;
  const token = typeof hook === "function" ? await Promise.resolve().then(hook).catch(() => null) : recall("sessionStorage", "dropgate:token");
  if (token) return { authorization: `Bearer ${token}` };
  const user = know.dev && recall("sessionStorage", "dropgate:user");
  // A header carries bytes; the gate reads them as UTF-8.
  return user ? { "x-user-id": String.fromCharCode(...new TextEncoder().encode(user)) } : {};
}

/** A 401: what was shown to the gate is worth nothing. */
function stranger(answer) {
  know.stranger = true;
  know.dev = answer.dev;
  keep("sessionStorage", "dropgate:token", null);
}

// --- the gate -------------------------------------------------------------------------------------

const path = (rest = "") => `/v1/campaigns/${know.id}${rest}`;

/** Claims, and asks again until there is a decision. */
async function claim() {
  know.asking = true;
  know.note = "";
  // From now on a reload looks for the claim. Only a mark: the code itself is nobody's who finds this device.
  keep("localStorage", store_key, "1");
  render();
  for (let tries = 0; know.asking; tries++) {
    const answer = await ask("POST", path("/claims"), await identity());
    const settled = decide(answer);
    if (settled) break;
    render();
    await pause(pause_ms(tries, answer.wait_ms), ...(navigator.onLine ? [] : ["online"]));
  }
  know.asking = false;
  render();
  if (know.claim) {
    $("title").focus();
    await follow();
  }
}

/** Takes over what an answer to a claim tells. Returns whether that was a decision. */
function decide({ word, body, wait_ms, ...answer }) {
  switch (word) {
    case "claim":
      know.claim = body;
      return true;
    case "sold-out":
    case "closed":
      know.campaign = { ...know.campaign, state: word, remaining: 0 };
      return true;
    case "not-open":
      // The clock was a little ahead: no reason to make the visitor press again.
      know.campaign = { ...know.campaign, state: "not-open", opens_at: body.opens_at };
      clock.woke();
      clock.heard(body.opens_at - wait_ms);
      return wait_ms > 2000;
    case "unknown-campaign":
      know.unknown = true;
      return true;
    case "unauthenticated":
      stranger(answer);
      return true;
    case "paused":
    case "too-many-requests":
      know.note = say(word === "paused" ? "paused_note" : "busy_note");
      return false;
    case "undecided":
    case "unavailable":
    case "misconfigured":
      know.note = say(navigator.onLine ? "undecided_note" : "offline_note");
      return false;
    default:
      know.note = say("failed_note", { detail: body.detail ?? body.title });
      return true;
  }
}

/** Looks for the claim that the visitor holds already. Returns the answer's word. */
async function look() {
  const answer = await ask("GET", path("/claims/me"), await identity());
  if (answer.word === "claim") know.claim = answer.body;
  if (answer.word === "no-claim") keep("localStorage", store_key, null);
  if (answer.word === "unauthenticated") stranger(answer);
  else if (answer.word === "claim" || answer.word === "no-claim") know.stranger = false;
  return answer;
}

/** Watches an admitted claim until its coupon is written. */
async function follow() {
  for (let tries = 0; know.claim?.status === "admitted"; tries++) {
    await pause(pause_ms(tries, 800));
    await visible();
    const { word } = await look();
    if (word === "unauthenticated") break;
    render();
  }
}

/** Who leaves the page in the background does not ask. */
async function visible() {
  while (document.hidden) await pause(60_000, "visibilitychange");
}

/** Keeps what is known of the campaign fresh: seldom, each visitor at his own time, and never around the opening. */
async function watch() {
  for (let failures = 0; ; ) {
    const { word, body, wait_ms } = await ask("GET", path());
    if (word === "campaign") {
      failures = 0;
      clock.heard(body.server_time);
      know.campaign = body;
      know.unknown = false;
      if (!know.asking && know.note === say("unreachable_note")) know.note = "";
    } else if (word === "unknown-campaign" || word === "bad-request") {
      know.unknown = true;
    } else {
      failures++;
      if (!know.asking && !know.claim) know.note = say(navigator.onLine ? "unreachable_note" : "offline_note");
    }
    render();
    if (know.claim || know.unknown) return;
    await pause(failures ? pause_ms(failures, Math.max(wait_ms, 2000)) : until_next_look_ms(), ...(failures ? ["online"] : []));
    await visible();
    // While the visitor's own claim is under way, its answer tells more.
    while (know.asking) await pause(5000);
    if (know.claim) return;
  }
}

function until_next_look_ms() {
  const { state, opens_at } = know.campaign;
  const spread = (from_s, to_s) => 1000 * (from_s + Math.random() * (to_s - from_s));
  if (state === "open") return spread(5, 10);
  if (state !== "not-open") return spread(30, 60);
  const ahead_ms = opens_at - clock.now_ms();
  const next_ms = ahead_ms > 300_000 ? spread(60, 120) : spread(15, 30);
  return next_ms > ahead_ms - 10_000 ? Math.max(ahead_ms, 0) + spread(4, 12) : next_ms;
}

// --- what is seen ---------------------------------------------------------------------------------

function phase() {
  if (!know.id) return "start";
  if (know.claim) return know.claim.status;
  if (know.unknown) return "unknown";
  if (know.asking) return "asking";
  if (!know.campaign?.state) return "loading";
  const { state, opens_at, closes_at } = know.campaign;
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

/** Changes a text only where it differs: a screen reader speaks up at each change. */
function put(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}

function show(id, shown) {
  $(id).hidden = !shown;
}

let told = "";

function render() {
  const now = phase();
  const { campaign, claim } = know;
  const key = now.replace("-", "_");
  const won = now === "admitted" || now === "issued";
  const before = ["waiting", "open"].includes(now);
  const time = campaign?.opens_at && new Date(campaign.opens_at).toLocaleString(locale, { dateStyle: "medium", timeStyle: "medium" });
  const number = (n) => (Number.isFinite(n) ? n.toLocaleString(locale) : "…");

  $("stage").dataset.phase = now;
  put("campaign", know.id ?? "");
  put("title", say(TITLES[now] ?? "loading_title"));
  show("countdown", now === "waiting");
  show("ticket", won);
  if (won) {
    put("slot", number(claim.slot));
    put("code", claim.code ?? "");
  }
  put("fact", say(`${key}_fact`, { time, left: number(campaign?.remaining), all: number(campaign?.capacity) }));

  const sign_in = know.stranger && before && !know.dev;
  const link = sign_in && window.dropgateSignIn;
  show("start", now === "start");
  show("signin", link);
  if (link) $("signin").href = link;
  show("copy", won);
  show("claim", !won && !link && !["start", "unknown", "refused", "loading"].includes(now));
  const usable = now === "open" && !sign_in && !(know.dev && know.stranger);
  // Not `disabled`: it keeps the focus, so that a key or a thumb can rest on it until it works.
  $("claim").setAttribute("aria-disabled", String(!usable));
  put("claim", say(`${key}_button`));
  show("dev", know.dev && before);
  show("check", ["sold-out", "closed"].includes(now) && !know.note && !know.stranger);

  let note = know.note;
  if (sign_in) note = link ? say("signin_note") : say("signin_missing");
  else if (!note && before && know.stranger) note = say("dev_note");
  else if (!note && now === "waiting") note = say("early_note");
  else if (!note && now === "start" && know.bad_id) note = say("start_bad");
  else if (!note) note = say(`${key}_note`);
  if (won && !["copied", "copy_failed"].some((k) => note === say(k))) note = say(`${key}_note`);
  put("note", note);

  // What is new is spoken once; the code letter by letter is left to the visitor.
  const tell = `${$("title").textContent} ${won ? `${say("slot")}: ${claim.slot}.` : ""} ${now === "waiting" ? time : ""} ${note}`;
  if (tell !== told) put("live", (told = tell));
  tick();
}

let ticking;

/** The countdown, and the moment of the opening: each visitor's own clock, so nothing is asked at that moment. */
function tick() {
  clearTimeout(ticking);
  const now = $("stage").dataset.phase;
  const { opens_at, closes_at } = know.campaign ?? {};
  const edge = now === "waiting" ? opens_at : now === "open" ? closes_at : null;
  if (!edge) return;
  const left_ms = edge - clock.now_ms();
  if (left_ms <= 0) return void render();
  if (now === "waiting") {
    const s = Math.ceil(left_ms / 1000);
    const two = (n) => String(n).padStart(2, "0");
    const hms = `${two(Math.floor(s / 3600) % 24)}:${two(Math.floor(s / 60) % 60)}:${two(s % 60)}`;
    put("countdown", s >= 86_400 ? say("days", { n: Math.floor(s / 86_400), time: hms }) : hms);
    $("countdown").classList.toggle("long", s >= 86_400);
    if ([600, 60, 10].includes(s)) put("live", `${say("waiting_title")} ${hms}`);
  }
  ticking = setTimeout(tick, Math.min(left_ms % 1000 || 1000, left_ms));
}

// --- what the visitor does ------------------------------------------------------------------------

$("claim").onclick = () => $("claim").getAttribute("aria-disabled") === "false" && claim();

$("copy").onclick = async () => {
  const done = await navigator.clipboard?.writeText(know.claim.code).then(() => "copied", () => "copy_failed");
  if (done !== "copied") getSelection().selectAllChildren($("code"));
  know.note = say(done ?? "copy_failed");
  render();
};

$("check").onclick = async () => {
  const { word } = await look();
  know.note = { claim: "", "no-claim": say("check_none"), unauthenticated: say("signin_missing") }[word] ?? say("unreachable_note");
  render();
  if (know.claim) await follow();
};

$("start").onsubmit = (event) => {
  event.preventDefault();
  const id = $("start-id").value.trim().toLowerCase();
  if (/^[a-z0-9-]{1,64}$/.test(id)) return location.assign(`/c/${id}`);
  know.note = say("start_bad");
  $("start-id").setAttribute("aria-invalid", "true");
  $("start-id").focus();
  render();
};

$("dev").onsubmit = (event) => {
  event.preventDefault();
  const user = $("dev-id").value.trim();
  keep("sessionStorage", "dropgate:user", user || null);
  know.stranger = !user;
  know.note = "";
  render();
  $("claim").focus();
};

addEventListener("visibilitychange", () => document.hidden || render());
addEventListener("offline", () => !know.claim && know.id && ((know.note = say("offline_note")), render()));
addEventListener("online", () => know.note === say("offline_note") && ((know.note = ""), render()));

// --- begin ----------------------------------------------------------------------------------------

document.documentElement.lang = lang;
document.title = know.id ? `${know.id} · ${say("title")}` : say("title");
for (const id of ["start-label", "start-go", "dev-label", "dev-go", "slot-label", "code-label", "copy", "signin", "check"]) {
  const key = { "slot-label": "slot", "code-label": "code", signin: "signin_button" }[id] ?? id.replace("-", "_");
  $(id).textContent = say(key);
}
$("dev-id").value = recall("sessionStorage", "dropgate:user") ?? "";
render();
if (know.id) {
  watch();
  begin();
}

/** Whoever pressed before sees his claim; whoever shows no token hears early how to sign in. */
async function begin() {
  const user = recall("sessionStorage", "dropgate:user");
  const pressed = recall("localStorage", store_key);
  const unnamed = !Object.keys(await identity()).length;
  if (unnamed) {
    const answer = await look();
    if (answer.dev && user) know.stranger = false;
  }
  for (let tries = 0; pressed && !know.claim && !know.stranger; tries++) {
    const answer = await look();
    if (answer.word === "claim" || answer.word === "no-claim" || know.stranger) break;
    await pause(pause_ms(tries, answer.wait_ms), "online");
  }
  render();
  if (know.claim) await follow();
}
