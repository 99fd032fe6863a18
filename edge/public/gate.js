// Talks to the gate, and says in one word what its answer means. Only what is surely known counts: silence, an
// error page, a proxy's own words are all "undecided", never a refusal.

const TYPE = "urn:dropgate:problem:";
/** How long one request may take, ms: longer than the gate itself waits. */
const DEADLINE_MS = 15_000;

/** The clock of the gate, in ms since the epoch. An answer is always older than it says, so of all estimates the
 *  latest is the nearest, and the page never believes itself past the opening too early. */
export class Clock {
  #ahead_ms = -Infinity;

  /** Takes a `server_time` that has just arrived. */
  heard(server_ms) {
    this.#ahead_ms = Math.max(this.#ahead_ms, server_ms - performance.now());
  }

  /** Forgets what it knew: a device that slept may have stopped its own clock. */
  woke() {
    this.#ahead_ms = -Infinity;
  }

  get known() {
    return this.#ahead_ms > -Infinity;
  }

  now_ms() {
    return this.known ? performance.now() + this.#ahead_ms : Date.now();
  }
}

/** Sends a request. Returns `{ word, body, wait_ms, dev }`: `word` is "claim", "campaign", the last word of the
 *  problem type, or "undecided"; `wait_ms` is Retry-After; `dev` is whether the gate takes X-User-Id. */
export async function ask(method, path, headers = {}) {
  let response, body;
  try {
    response = await fetch(path, { method, headers, credentials: "omit", signal: AbortSignal.timeout(DEADLINE_MS) });
    body = await response.json();
  } catch {
    // No answer, or none that can be read.
  }
  const wait_ms = Math.min(600, Math.max(0, Number(response?.headers.get("retry-after")) || 0)) * 1000;
  return { word: word_of(response?.status, body), body, wait_ms, dev: takes_user_id(response, body) };
}

/** What an answer means. */
export function word_of(status, body) {
  if (status === 200 || status === 202) {
    if (Number.isInteger(body?.slot) && typeof body.status === "string") return "claim";
    return typeof body?.state === "string" && Number.isFinite(body.server_time) ? "campaign" : "undecided";
  }
  if (status >= 400 && typeof body?.type === "string" && body.type.startsWith(TYPE)) return body.type.slice(TYPE.length);
  return status === 429 ? "too-many-requests" : "undecided";
}

/** Only a gate that believes X-User-Id, for local work, asks for it. */
function takes_user_id(response, body) {
  if (response?.status !== 401) return false;
  return /x-user-id/i.test(`${response.headers.get("www-authenticate")} ${body?.detail}`);
}

/** How long to wait before try `n` (from 0): what the gate asks for, and then a random part that grows from 1 s to
 *  16 s, so that a crowd which was sent away together does not come back together. */
export function pause_ms(n, wait_ms = 0) {
  return wait_ms + 200 + Math.random() * 1000 * 2 ** Math.min(n, 4);
}

/** Ends after `ms`, or sooner with any of `events` of the window or document. */
export function pause(ms, ...events) {
  return new Promise((done) => {
    const end = () => {
      clearTimeout(timer);
      for (const event of events) {
        removeEventListener(event, end);
        document.removeEventListener(event, end);
      }
      done();
    };
    const timer = setTimeout(end, ms);
    for (const event of events) {
      addEventListener(event, end);
      document.addEventListener(event, end);
    }
  });
}
