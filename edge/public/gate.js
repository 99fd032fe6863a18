// Sends requests to the gate, and reduces each response to one word. Only a response of the gate itself counts: no
// response, or an error page of a proxy, is "undecided", never a refusal.

const TYPE = "urn:dropgate:problem:";
/** Time limit of one request, in ms: longer than the gate itself waits. */
const DEADLINE_MS = 15_000;

/** The clock of the gate, in ms since the epoch. A response is always older than its time, so the latest of all estimates
 *  is the best one, and the page never assumes the opening too early. */
export class Clock {
  #ahead_ms = -Infinity;

  /** Adds an estimate: a `server_time` that has just arrived. */
  sync(server_ms) {
    this.#ahead_ms = Math.max(this.#ahead_ms, server_ms - performance.now());
  }

  /** Drops the estimates: the clock of a device that slept may have stopped. */
  reset() {
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
 *  problem type, or "undecided"; `wait_ms` is Retry-After; `dev` is whether the gate accepts X-User-Id. */
export async function send(method, path, headers = {}) {
  let response, body;
  try {
    response = await fetch(path, { method, headers, credentials: "omit", signal: AbortSignal.timeout(DEADLINE_MS) });
    body = await response.json();
  } catch {
    // No response, or not JSON.
  }
  const wait_ms = Math.min(600, Math.max(0, Number(response?.headers.get("retry-after")) || 0)) * 1000;
  return { word: word_of(response?.status, body), body, wait_ms, dev: accepts_user_id(response, body) };
}

/** The word for a response. */
export function word_of(status, body) {
  if (status === 200 || status === 202) {
    if (Number.isInteger(body?.slot) && typeof body.status === "string") return "claim";
    return typeof body?.state === "string" && Number.isFinite(body.server_time) ? "campaign" : "undecided";
  }
  if (status >= 400 && typeof body?.type === "string" && body.type.startsWith(TYPE)) return body.type.slice(TYPE.length);
  return status === 429 ? "too-many-requests" : "undecided";
}

/** Only a gate in development, which trusts X-User-Id, mentions it. */
function accepts_user_id(response, body) {
  if (response?.status !== 401) return false;
  return /x-user-id/i.test(`${response.headers.get("www-authenticate")} ${body?.detail}`);
}

/** How long to wait before retry `n` (from 0): Retry-After, and a random time that grows from 1 s to 16 s, so that a crowd
 *  that was rejected together does not return together. */
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
