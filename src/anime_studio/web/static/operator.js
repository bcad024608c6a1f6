// The operator's part of the status page: whose prompt is drawn, and cancel, clear, hide, pause.
// The key stays in this tab's session storage and travels in a header; on the server's own machine none is needed.

import { operate, readOperator, sameOriginPath } from "./api.js";
import { byId, el, onSecondClick, roughly, seconds, setText, usd } from "./dom.js";
import { showProblem } from "./problems.js";
import { STAGE_WORDS } from "./stages.js";

const STORED_AS = "anime-studio.operator-key";
const LONGEST_PROMPT_CHARS = 160;

let key = stored();
let isPaused = false;

function stored() {
  try {
    return sessionStorage.getItem(STORED_AS);
  } catch {
    return null; // Without storage, a reload asks for the key again.
  }
}

function keep(value) {
  key = value;
  try {
    if (value === null) sessionStorage.removeItem(STORED_AS);
    else sessionStorage.setItem(STORED_AS, value);
  } catch {
    // As in stored.
  }
}

/** Ask for the operator's view and show it, or the form for the key. */
export async function refreshOperator() {
  try {
    show(await readOperator(key));
  } catch (problem) {
    if (problem.code !== "operator_only") throw problem;
    byId("operator-view").hidden = true;
    byId("operator-form").hidden = false;
    setText(byId("operator-refused"), key === null ? problem.detail : "This key is not the operator's.");
    keep(null);
  }
}

function show(view) {
  isPaused = view.paused;
  byId("operator-form").hidden = true;
  byId("operator-view").hidden = false;
  byId("paused").hidden = !view.paused;
  setText(byId("pause"), view.paused ? "Take orders again" : "Pause orders");
  byId("clear").disabled = view.readiness.queued === 0;
  setText(byId("channels"), channelWords(view.channels));
  setText(byId("expired"), view.expired_links ? `${view.expired_links} clips were asked for by links that had expired.` : "");
  const rows = byId("jobs");
  if (rows.contains(document.activeElement)) return; // a button that is about to be pressed must not move
  rows.replaceChildren(...(view.jobs.length === 0 ? [el("tr", {}, el("td", { colspan: "6" }, "No jobs yet."))] : view.jobs.map(row)));
}

const channelWords = (channels) =>
  channels.map(({ channel, viewers, silent, asked_s: asked }) =>
    silent ? `Nobody looks at channel ${channel} any more: the last look was ${roughly(asked).replace("about ", "")} ago.`
      : `Channel ${channel}: ${viewers} ${viewers === 1 ? "viewer" : "viewers"}.`).join(" ");

function row(job) {
  const words = job.state === "running" ? (STAGE_WORDS[job.stage] ?? job.stage) : job.error_code ?? job.state;
  const prompt = job.prompt.length > LONGEST_PROMPT_CHARS ? `${job.prompt.slice(0, LONGEST_PROMPT_CHARS - 1)}…` : job.prompt;
  return el("tr", { "data-state": job.state },
    el("th", { scope: "row" }, words), el("td", {}, el("bdi", {}, job.requested_by ?? job.source ?? "–")),
    el("td", { class: "number" }, seconds(job.age_s)), el("td", { class: "number" }, job.usd === null ? "–" : usd(job.usd)),
    el("td", { class: "prompt" }, el("bdi", {}, prompt), job.hidden ? " (off its channel)" : ""), el("td", {}, ...buttons(job)));
}

function buttons(job) {
  if (job.state === "queued" || job.state === "running") {
    const all = job.requested_by && button(`Cancel all of ${job.requested_by}`, "All of this viewer", { action: "cancel", requested_by: job.requested_by });
    return [button(`Cancel: ${job.prompt}`, "Cancel", { action: "cancel", job_id: job.job_id }), ...(all ? [" ", all] : [])];
  }
  const look = job.url === null ? [] : [el("a", { href: sameOriginPath(job.url), target: "_blank", "aria-label": `Watch: ${job.prompt}` }, "Watch"), " "];
  if (job.state !== "succeeded" || job.channel === null) return look;
  const act = job.hidden ? "show" : "hide";
  return [...look, button(`${act}: ${job.prompt}`, job.hidden ? "Show" : "Hide", { action: act, clip_id: job.clip_id })];
}

function button(label, words, action) {
  const node = el("button", { class: "button", type: "button", "aria-label": label }, words);
  node.addEventListener("click", () => act(action, node));
  return node;
}

async function act(action, node) {
  node.disabled = true;
  try {
    const view = await operate(action, key);
    node.blur();
    show(view);
    showProblem(byId("problem"), null);
  } catch (problem) {
    showProblem(byId("problem"), problem);
  } finally {
    node.disabled = false;
  }
}

export function setUpOperator() {
  byId("pause").addEventListener("click", () => act({ action: isPaused ? "resume" : "pause" }, byId("pause")));
  onSecondClick(byId("clear"), "Cancel all that wait?", () => act({ action: "clear" }, byId("clear")));
  byId("operator-form").addEventListener("submit", (event) => {
    event.preventDefault();
    keep(byId("operator-key").value.trim() || null);
    byId("operator-key").value = "";
    refreshOperator().catch((problem) => showProblem(byId("problem"), problem));
  });
}
