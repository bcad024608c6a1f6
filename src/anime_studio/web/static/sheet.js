// The exposure sheet: a cell for each stage, and one for each real denoise step.

import { el, roughly } from "./dom.js";

const STAGES = ["starting", "text", "denoise", "decode", "store"];
const MOST_CELLS = 60;

export function stageWords(job) {
  if (job.state === "queued") {
    const ahead = job.queue_position ?? 0;
    return ahead === 0 ? "Next in line" : `Waiting, ${ahead} ahead`;
  }
  const { step, total_steps: total } = job.progress;
  return {
    starting: "Waking the worker",
    text: "Reading the prompt",
    denoise: `Drawing step ${Math.min(step + 1, total)} of ${total}`,
    decode: "Developing the frames",
    store: "Storing the clip",
  }[job.stage] ?? "Starting";
}

export function etaWords(etaS) {
  return etaS === null || etaS === undefined ? "" : `${roughly(etaS)} left`;
}

export function drawSheet(sheet, job) {
  const total = Math.min(job.progress.total_steps || job.request.num_inference_steps, MOST_CELLS);
  if (sheet.childElementCount !== total + 4) sheet.replaceChildren(...cells(total));
  sheet.dataset.many = String(total > 20);
  const at = position(job, total);
  [...sheet.children].forEach((cell, index) => {
    cell.classList.toggle("done", index < at);
    cell.classList.toggle("now", index === at && job.state === "running");
  });
  const percent = Math.round(job.progress.fraction * 100);
  sheet.setAttribute("aria-valuenow", String(percent));
  sheet.setAttribute("aria-valuetext", `${stageWords(job)}, ${percent} percent`);
}

function cells(total) {
  const named = (kind, name) => el("div", { class: "cell", "data-kind": kind, "aria-hidden": "true" },
    name ? el("span", { class: "cell-name" }, name) : "");
  const every = Math.ceil(total / 10);
  const steps = Array.from({ length: total }, (_, index) =>
    named("step", index % every === 0 ? String(index + 1) : ""));
  return [named("stage", "wake"), named("stage", "text"), ...steps, named("stage", "decode"), named("stage", "store")];
}

function position(job, total) {
  if (job.state === "succeeded") return total + 4;
  if (job.state === "queued" || job.stage === null) return 0;
  const stage = STAGES.indexOf(job.stage);
  if (stage < 2) return stage;
  if (stage > 2) return total + stage - 1;
  const share = job.progress.step / Math.max(1, job.progress.total_steps);
  return 2 + Math.min(total - 1, Math.floor(share * total));
}
