// The page of an address that does not exist.
import { speak, direction } from "./words.js";

const { lang, say } = speak(navigator.languages ?? ["en"], window.dropgateWords);
Object.assign(document.documentElement, { lang, dir: direction(lang) });
document.title = say("missing_title");
for (const [id, key] of [["shop", "title"], ["title", "missing_title"], ["fact", "missing_fact"], ["home", "missing_button"]]) {
  document.getElementById(id).textContent = say(key);
}
