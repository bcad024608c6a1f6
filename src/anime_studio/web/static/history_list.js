// This browser's past clips, each job read again so that its links are fresh.

import { readJob, sameOriginPath } from "./api.js";
import { byId, el, onSecondClick, setText } from "./dom.js";
import { clearHistory, readHistory } from "./history.js";
import { isFinal } from "./follow.js";

const SHOWN = 24;
const CONCURRENT_READS = 4;

const STATE_WORDS = { queued: "waiting", running: "being drawn", failed: "no clip", cancelled: "stopped" };

export class HistoryList {
  /** Handlers: onOpen(jobId), onUse(prompt), onDelete(jobId), and onClear() after the list was cleared. */
  constructor({ onOpen, onUse, onDelete, onClear }) {
    this.list = byId("history-list");
    Object.assign(this, { onOpen, onUse, onDelete });
    byId("clear-history").addEventListener("click", () => {
      clearHistory();
      this.refresh();
      onClear();
    });
  }

  /** Show the list at once, then read its jobs a few at a time. */
  async refresh(currentId = null) {
    const entries = readHistory().slice(0, SHOWN);
    byId("history").hidden = entries.length === 0;
    this.list.replaceChildren(...entries.map((entry) => el("li", {}, this.item(entry), this.actions(entry))));
    this.markCurrent(currentId);
    const unread = [...this.list.querySelectorAll(".history-item")];
    const worker = async () => {
      for (let item = unread.shift(); item; item = unread.shift()) await this.fill(item);
    };
    await Promise.all(Array.from({ length: CONCURRENT_READS }, worker));
  }

  item({ jobId, prompt, seed }) {
    const button = el("button", { class: "history-item", type: "button", "data-job-id": jobId },
      el("span", { class: "history-poster" }, "…"),
      el("span", { class: "history-text" },
        el("span", { class: "history-prompt" }, prompt),
        el("span", { class: "history-seed" }, `seed ${seed}`)));
    button.addEventListener("click", () => this.onOpen(jobId));
    return button;
  }

  actions({ jobId, prompt }) {
    const button = (words) =>
      el("button", { class: "history-action", type: "button", "aria-label": `${words}: ${prompt.slice(0, 80)}` }, words);
    const [use, remove] = [button("Use prompt"), button("Delete")];
    use.addEventListener("click", () => this.onUse(prompt));
    onSecondClick(remove, "Delete for good?", () => this.onDelete(jobId));
    return el("div", { class: "history-actions" }, use, remove);
  }

  async fill(item) {
    const poster = item.querySelector(".history-poster");
    try {
      const job = await readJob(item.dataset.jobId);
      if (job.clip) poster.replaceChildren(el("img", { src: sameOriginPath(job.clip.poster_url), alt: "", loading: "lazy" }));
      else setText(poster, STATE_WORDS[job.state] ?? "swept");
      item.dataset.state = isFinal(job) ? job.state : "open";
    } catch (problem) {
      setText(poster, problem.code === "job_not_found" ? "swept" : "not reachable");
    }
  }

  markCurrent(currentId) {
    for (const item of this.list.querySelectorAll(".history-item")) {
      if (item.dataset.jobId === currentId) item.setAttribute("aria-current", "true");
      else item.removeAttribute("aria-current");
    }
  }
}
