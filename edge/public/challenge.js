// Turnstile, where the gate requires it. The widget runs in a frame of this host (/challenge), the only document whose
// Content-Security-Policy allows challenges.cloudflare.com.

/** A token is valid for 300 s; the claim must arrive within that time. */
const FRESH_MS = 240_000;
/** How long a claim waits for a token. Then it is sent without one, and the gate's response decides. */
const TOKEN_TIMEOUT_MS = 30_000;

export class Challenge {
  #place;
  #frame = null;
  #token = null;
  #received_ms = 0;
  #blocked = false;
  #waiting = [];

  /** `place` is the element for the widget, which is visible only when the user must do something. */
  constructor(place) {
    this.#place = place;
    addEventListener("message", (event) => {
      if (event.origin !== location.origin || !this.#frame || event.source !== this.#frame.contentWindow) return;
      const { token, height, blocked } = event.data ?? {};
      if (blocked) {
        this.#blocked = true;
        this.#pass(null);
      }
      if (typeof token === "string") this.#take(token);
      if (Number.isFinite(height)) this.#frame.style.height = `${Math.min(height, 400)}px`;
    });
  }

  /** Starts the widget, once. */
  begin(site_key, lang) {
    if (this.#frame) return;
    this.#frame = document.createElement("iframe");
    this.#frame.title = "Cloudflare Turnstile";
    this.#frame.src = `/challenge#${new URLSearchParams({ key: site_key, lang })}`;
    this.#place.append(this.#frame);
    this.#place.hidden = false;
  }

  /** The present token is of no use any more: the widget makes another. If it could not be loaded, it is loaded again with
   *  the next claim. */
  reset() {
    this.#token = null;
    if (this.#blocked) return this.end();
    this.#frame?.contentWindow.postMessage("reset", location.origin);
  }

  /** No claim needs a token any more. */
  end() {
    this.#frame?.remove();
    this.#frame = null;
    this.#blocked = false;
    this.#place.hidden = true;
  }

  /** A token that is fresh enough, or null after a time. A repeated claim may use the same token again. */
  async token() {
    if (this.#token && performance.now() - this.#received_ms < FRESH_MS) return this.#token;
    if (this.#blocked) return null;
    if (this.#token) this.reset();
    return new Promise((done) => {
      this.#waiting.push(done);
      setTimeout(() => done(null), TOKEN_TIMEOUT_MS);
    });
  }

  #take(token) {
    this.#token = token;
    this.#received_ms = performance.now();
    this.#pass(token);
  }

  #pass(token) {
    for (const done of this.#waiting.splice(0)) done(token);
  }
}
