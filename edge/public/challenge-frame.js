// Inside the frame /challenge: runs Turnstile's widget and passes each token to the page.

const settings = new URLSearchParams(location.hash.slice(1));
const post = (message) => parent.postMessage(message, location.origin);
document.body.style.margin = "0";

window.dropgateReady = () => {
  const widget = document.getElementById("widget");
  const id = window.turnstile.render(widget, {
    sitekey: settings.get("key"),
    language: settings.get("lang") ?? "auto",
    // The widget is 300 px wide; a narrow phone gets the small form.
    size: innerWidth < 300 ? "compact" : "flexible",
    appearance: "interaction-only",
    "response-field": false,
    callback: (token) => post({ token }),
    "before-interactive-callback": () => post({ height: innerWidth < 300 ? 145 : 70 }),
    "after-interactive-callback": () => post({ height: 0 }),
    // Without this the widget throws. It retries by itself, and shows the cause.
    "error-callback": () => post({ height: innerWidth < 300 ? 145 : 70 }),
  });
  addEventListener("message", (event) => {
    if (event.origin === location.origin && event.source === parent && event.data === "reset") window.turnstile.reset(id);
  });
};

const script = document.createElement("script");
script.src = "https://challenges.cloudflare.com/turnstile/v0/api.js?render=explicit&onload=dropgateReady";
// An ad blocker, or a network without a way to Cloudflare.
script.onerror = () => post({ blocked: true });
document.head.append(script);
