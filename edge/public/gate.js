// Sends requests to the gate, and reduces each response to one word. Only a response of the gate itself counts: no
// response, or an error page of a proxy, is "undecided", never a refusal.

const TYPE = "urn:dropgate:problem:";
/** Time limit of one request, in ms: longer than the gate itself waits. */
const DEADLINE_MS = 15_000;

/** How much two good clocks may drift apart, as a share of the time. */
const DRIFT = 1e-4;

/** Redis's clock, which decides about claims, in ms since the epoch. Each response bounds it from both sides; the clock
 *  keeps the intersection, and shows its middle (Marzullo's algorithm). */
export class Clock {
  #low = -Infinity; // of the difference to performance.now()
  #high = Infinity;
  #synced_ms = 0;

  /** Adds the bounds of a response: when it was made, the clock showed `server_time` to `server_time_latest`. */
  sync({ server_time, server_time_latest = server_time }, sent_ms, received_ms) {
    const low = server_time - received_ms;
    const high = server_time_latest - sent_ms;
    const drift = DRIFT * Math.max(0, received_ms - this.#synced_ms);
    this.#low = Math.max(low, this.#low - drift);
    this.#high = Math.min(high, this.#high + drift);
    // No common part: a clock has jumped, or the device has slept.
    if (this.#low > this.#high) [this.#low, this.#high] = [low, high];
    this.#synced_ms = received_ms;
  }

  /** How far the clock may be off, in either direction. */
  get error_ms() {
    return (this.#high - this.#low) / 2;
  }

  now_ms() {
    return Number.isFinite(this.error_ms) ? performance.now() + (this.#low + this.#high) / 2 : Date.now();
  }
}

/** Sends a request. Returns `{ word, body, wait_ms, dev, sent_ms, received_ms }`: `word` is "claim", "campaign", the
 *  last word of the problem type, or "undecided"; `wait_ms` is Retry-After; `dev` is whether the gate accepts X-User-Id;
 *  the times are those of performance.now(). */
export async function send(method, path, headers = {}) {
  let response, body;
  const sent_ms = performance.now();
  let received_ms = sent_ms;
  try {
    // A stored response would tell an old time.
    const signal = AbortSignal.timeout(DEADLINE_MS);
    response = await fetch(path, { method, headers, credentials: "omit", cache: "no-store", signal });
    received_ms = performance.now();
    body = await response.json();
  } catch {
    // No response, or not JSON.
  }
  const wait_ms = Math.min(600, Math.max(0, Number(response?.headers.get("retry-after")) || 0)) * 1000;
  return { word: word_of(response?.status, body), body, wait_ms, dev: accepts_user_id(response, body), sent_ms, received_ms };
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
