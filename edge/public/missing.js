// The page of an address that does not exist: the worker's response is only this script.
import { direction, speak } from "./words.js";

// The shop's own texts.
await import("./shop.js").catch(() => {});
const { lang, say } = speak(navigator.languages ?? ["en"], window.dropgateWords);
Object.assign(document.documentElement, { lang, dir: direction(lang) });
document.head.innerHTML = `
  <meta name="viewport" content="width=device-width, initial-scale=1, viewport-fit=cover">
  <meta name="color-scheme" content="light dark">
  <link rel="icon" href="/icon.svg" type="image/svg+xml">
  <link rel="stylesheet" href="/page.css">
  <title></title>`;
document.body.innerHTML = `
  <header class="brand"><img src="/icon.svg" alt=""><span id="shop"></span></header>
  <main data-phase="missing" aria-labelledby="title">
    <div class="info"><h1 id="title"></h1><div class="face"><p id="fact" class="fact"></p></div></div>
    <div class="act"><a class="big" id="home" href="/"></a></div>
  </main>`;
document.title = say("missing_title");
for (const [id, key] of [["shop", "title"], ["title", "missing_title"], ["fact", "missing_fact"], ["home", "missing_button"]]) {
  document.getElementById(id).textContent = say(key);
}
