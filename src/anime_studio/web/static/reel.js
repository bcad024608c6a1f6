// The reel: this browser's past clips, each re-read so that its links are fresh.

import { here, readJob } from "./api.js";
import { byId, el, say } from "./dom.js";
import { entries, forgetAll } from "./history.js";
import { isFinal } from "./follow.js";

const SHOWN = 24;
const AT_ONCE = 4;

const STATE_WORDS = { queued: "waiting", running: "being drawn", failed: "no clip", cancelled: "stopped" };

export class Reel {
  /** Handlers: onOpen(jobId), and onForget() after the list was cleared. */
  constructor({ onOpen, onForget }) {
    this.list = byId("history");
    this.onOpen = onOpen;
    byId("forget").addEventListener("click", () => {
      forgetAll();
      this.refresh();
      onForget();
    });
  }

  /** Draw the list at once, then re-read the jobs a few at a time. */
  async refresh(currentId = null) {
    const shown = entries().slice(0, SHOWN);
    byId("reel").hidden = shown.length === 0;
    const cuts = shown.map((entry) => this.cut(entry, entry.jobId === currentId));
    this.list.replaceChildren(...cuts.map((cut) => el("li", {}, cut)));
    const waiting = shown.map((entry, index) => [entry, cuts[index]]);
    const work = async () => {
      for (let next = waiting.shift(); next; next = waiting.shift()) await this.fill(...next);
    };
    await Promise.all(Array.from({ length: AT_ONCE }, work));
  }

  cut(entry, current) {
    const button = el("button", { class: "cut", type: "button", "aria-current": current ? "true" : null },
      el("span", { class: "cut-picture" }, "…"),
      el("span", { class: "cut-words" },
        el("span", { class: "cut-prompt" }, entry.prompt),
        el("span", { class: "cut-seed" }, `seed ${entry.seed}`)));
    button.addEventListener("click", () => this.onOpen(entry.jobId));
    return button;
  }

  async fill(entry, cut) {
    const picture = cut.querySelector(".cut-picture");
    try {
      const job = await readJob(entry.jobId);
      if (job.clip) picture.replaceChildren(el("img", { src: here(job.clip.poster_url), alt: "", loading: "lazy" }));
      else say(picture, STATE_WORDS[job.state] ?? "swept");
      cut.dataset.state = isFinal(job) ? job.state : "open";
    } catch (problem) {
      say(picture, problem.code === "job_not_found" ? "swept" : "not reachable");
    }
  }

  mark(currentId) {
    const shown = entries().slice(0, SHOWN);
    this.list.querySelectorAll(".cut").forEach((cut, index) => {
      if (shown[index]?.jobId === currentId) cut.setAttribute("aria-current", "true");
      else cut.removeAttribute("aria-current");
    });
  }
}
