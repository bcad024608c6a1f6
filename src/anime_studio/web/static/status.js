// The operator's page: reads GET /status as JSON every few seconds.

import { readStatus, warm } from "./api.js";
import { byId, el, pause, roughly, seconds, setText, usd } from "./dom.js";
import { refreshOperator, setUpOperator } from "./operator.js";
import { showProblem } from "./problems.js";
import { STAGE_WORDS } from "./stages.js";

const REFRESH_EVERY_MS = 5000;
const WORTH_SAYING_S = 10;

function show(status) {
  const { readiness } = status;
  byId("light").dataset.status = readiness.status;
  setText(byId("light-words"), `${readiness.status} · ${status.recipe}`);
  const eta = readiness.eta_s === null ? "" : ` A new clip takes ${roughly(readiness.eta_s)}.`;
  setText(byId("readiness"), `${sentence(readiness.detail)} ${readiness.queued} waiting, ${readiness.running} being drawn.${eta}${silence(readiness)}`);
  byId("remedy").hidden = !readiness.command;
  if (readiness.command) byId("remedy").replaceChildren("Fix it with ", el("code", {}, readiness.command));
  byId("weights").hidden = !status.weights_note;
  setText(byId("weights"), status.weights_note ? `Weights of the newest clip (${status.model_revision}): ${sentence(status.weights_note)}` : "");
  byId("tiles").replaceChildren(...tiles(status));
  byId("stages").replaceChildren(byId("stages").tHead, ...stageGroups(status.stages_by_size));
  byId("no-errors").hidden = status.errors.length > 0;
  byId("errors-table").hidden = status.errors.length === 0;
  byId("errors").replaceChildren(...status.errors.map(errorRow));
  setText(byId("foot"), `Looking back ${roughly(status.window_s).replace("about ", "")} from ${clock(status.now)}. Version ${status.version}, up for ${seconds(status.uptime_s)}. `
    + "Signals are those that reached this process.");
}

const silence = ({ progress_age_s: age }) => (age >= WORTH_SAYING_S ? ` The worker has been silent for ${roughly(age).replace("about ", "")}.` : "");
const sentence = (text) => (/[.!?]$/.test(text) ? text : `${text}.`).replace(/^./, (first) => first.toUpperCase());
const clock = (iso) => new Date(iso).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
const percent = (share) => (share === null ? "–" : `${(100 * share).toFixed(share === 1 ? 0 : 1)} %`);

function tiles(status) {
  const { spend, stages, starts, signals } = status;
  const sizes = Object.keys(status.stages_by_size);
  const ofSize = sizes.length > 1 ? `of ${sizes[0]}, ` : "";
  const budget = spend.budget_usd_per_clip === null ? "no budget set" : `${percent(spend.budget_used)} of ${usd(spend.budget_usd_per_clip)} per clip`;
  return [
    tile("Succeeded", percent(status.success_rate), `${status.succeeded} clip${status.succeeded === 1 ? "" : "s"}, ${status.failed} failed, ${status.cancelled} cancelled`,
      status.success_rate !== null && status.success_rate < 0.95),
    tile("Median, all in", stages.total ? seconds(stages.total.p50_s) : "–", stages.total ? `${ofSize}p95 ${seconds(stages.total.p95_s)}` : "no clip yet"),
    tile("Backlog", String(status.readiness.queued), `${status.readiness.running} being drawn`),
    tile("Cold starts", String(status.cold_starts), Object.entries(starts).map(([kind, count]) => `${count} ${kind}`).join(", ") || "none yet"),
    tile("Spent", usd(spend.usd), spend.usd_per_clip === null ? budget : `${usd(spend.usd_per_clip)} a clip; ${budget}`, spend.budget_used > 1),
    budgetTile("Today", spend.today_usd, spend.budget_usd_per_day, "day"),
    budgetTile("This month", spend.month_usd, spend.budget_usd_per_month, "month"),
    tile("Fallbacks", String(status.fallbacks), `${signals.playback_error ?? 0} playback errors, ${signals.clip_skipped ?? 0} skipped`),
  ];
}

const WARN_AT_SHARE = 0.8;

function budgetTile(name, spent, budget, period) {
  if (budget === null) return tile(name, usd(spent), "no budget set");
  const share = spent / budget;
  const words = share >= 1 ? ": spent" : share >= WARN_AT_SHARE ? ": nearly spent" : "";
  const bar = el("span", { class: "bar", "aria-hidden": "true" }, el("span", {}));
  bar.firstChild.style.setProperty("--share", `${Math.min(100, 100 * share)}%`);
  return tile(name, usd(spent), [`${percent(share)} of ${usd(budget)} a ${period}${words}`, bar], words !== "");
}

function tile(name, value, note, alarm = false) {
  return el("div", { class: "tile", "data-alarm": String(alarm) }, el("dt", {}, name), el("dd", {}, value), el("dd", { class: "note" }, ...[note].flat()));
}

/** A body of the table for each size that clips had, named if there are several. */
function stageGroups(stagesBySize) {
  const sizes = Object.entries(stagesBySize);
  if (sizes.length === 0) return [el("tbody", {}, el("tr", {}, el("td", { colspan: "5" }, "No clip in this window yet.")))];
  const longest = Math.max(...sizes.flatMap(([, stages]) => Object.values(stages)).map(({ p95_s: p95 }) => p95), 0.001);
  const named = (size) => (sizes.length > 1 ? [el("tr", {}, el("th", { colspan: "5", scope: "rowgroup" }, size))] : []);
  return sizes.map(([size, stages]) => el("tbody", {}, ...named(size), ...stageRows(stages, longest)));
}

function stageRows(stages, longest) {
  return Object.entries(stages).map(([stage, { p50_s: p50, p95_s: p95, count }]) => {
    const bar = el("span", { class: "bar", "aria-hidden": "true" }, el("span", { class: "p95" }), el("span", {}));
    bar.children[0].style.setProperty("--share", `${(100 * p95) / longest}%`);
    bar.children[1].style.setProperty("--share", `${(100 * p50) / longest}%`);
    return el("tr", {}, el("th", { scope: "row" }, STAGE_WORDS[stage] ?? stage), el("td", { class: "number" }, seconds(p50)),
      el("td", { class: "number" }, seconds(p95)), el("td", { class: "number" }, String(count)), el("td", {}, bar));
  });
}

function errorRow({ at, code, request_id: requestId, detail }) {
  return el("tr", {}, el("td", { class: "number" }, clock(at)), el("td", {}, el("code", {}, code)), el("td", {}, el("code", {}, requestId)), el("td", {}, detail));
}

async function onWarm() {
  const button = byId("warm");
  button.disabled = true;
  setText(button, "Warming…");
  try {
    const readiness = await warm();
    setText(button, readiness.ready ? "Warm a worker" : "Not ready yet; try again");
    await refresh();
  } catch (problem) {
    showProblem(byId("problem"), problem);
    setText(button, "Warm a worker");
  } finally {
    button.disabled = false;
  }
}

async function refresh() {
  try {
    const [status] = await Promise.all([readStatus(), refreshOperator()]);
    show(status);
    delete byId("main").dataset.loading;
    showProblem(byId("problem"), null);
  } catch (problem) {
    byId("light").dataset.status = "unavailable";
    setText(byId("light-words"), "not reachable");
    showProblem(byId("problem"), problem);
  }
}

async function run() {
  byId("warm").addEventListener("click", onWarm);
  setUpOperator();
  for (;;) {
    if (!document.hidden) await refresh();
    await pause(REFRESH_EVERY_MS);
  }
}

run();
