// Copying text. Browsers allow it on https and on localhost alone; elsewhere the text is shown, selected, to be copied.

import { byId, setText } from "./dom.js";

/** Copy *text* and say *done*; where the browser refuses, offer the text itself. */
export async function copyText(text, done) {
  const box = byId("copy-text");
  box.hidden = true;
  try {
    if (!navigator.clipboard) throw new Error("not allowed on plain http");
    await navigator.clipboard.writeText(text);
    setText(byId("link-note"), done);
  } catch {
    box.hidden = false;
    box.value = text;
    box.focus();
    box.select();
    setText(byId("link-note"), "This browser does not let the page copy here. The text is selected: press Ctrl or ⌘ + C.");
  }
}
