// The caption: who asked for the shown clip and for what, that it is a replay, and the clip that is being drawn.
// What viewers wrote goes in as text. It is cut by the layout, so that any length and script stays in its box.

import { byId, setText } from "./dom.js";
import { stageWords } from "./stages.js";

const LONGEST_CHARS = 200;

export class Caption {
  /** *parts*: "who", "prompt", both, or none for no caption. A replay is marked in any case. */
  constructor(parts) {
    this.isOn = parts.length > 0;
    this.showsPrompt = parts.includes("prompt");
    this.showsWho = parts.includes("who");
    byId("caption").hidden = !this.isOn;
  }

  /** Describe the shown clip; null for none. */
  showClip(entry) {
    byId("replay-mark").hidden = !entry?.isReplay;
    const prompt = entry && this.showsPrompt ? shortened(entry.prompt) : "";
    const who = this.#who(entry);
    byId("caption-clip").hidden = !(prompt || who);
    setText(byId("caption-who"), who && prompt ? `${who}: ` : who);
    setText(byId("caption-prompt"), prompt);
  }

  /** Describe the first of the channel's next clips, and how many wait behind it. */
  showUpcoming([first, ...others]) {
    byId("caption-next").hidden = !first;
    byId("note").hidden = this.isOn && Boolean(first); // the caption takes its place
    if (!first) return;
    const who = this.#who(first);
    const stage = stageWords(first).replace(/,|$/, (end) => (who && ` for ${who}`) + end); // the name comes before the step
    setText(byId("next-stage"), stage + (this.showsPrompt ? ": " : ""));
    setText(byId("next-prompt"), this.showsPrompt ? shortened(first.prompt) : "");
    setText(byId("next-others"), others.length > 0 ? `, ${others.length} more waiting` : "");
    byId("next-bar").style.setProperty("--done", String(first.progress.fraction));
  }

  /** Return who asked for a clip, isolated from the text beside it: names may run from right to left. */
  #who(entry) {
    return entry?.requested_by && this.showsWho ? `\u2068${entry.requested_by}\u2069` : "";
  }
}

const shortened = (text) => {
  const characters = [...text.replace(/\s+/g, " ")];
  return characters.length > LONGEST_CHARS ? `${characters.slice(0, LONGEST_CHARS - 1).join("")}…` : characters.join("");
};
