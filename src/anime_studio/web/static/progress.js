// A job's progress in words, and as a bar with a cell for each stage and each denoise step.

import { el, roughly } from "./dom.js";
import { STAGE_WORDS, stageWords } from "./stages.js";

const STAGES = ["starting", "text", "denoise", "decode", "store"];
const MOST_STEP_CELLS = 60;

export function etaWords(etaS) {
  return etaS === null || etaS === undefined ? "" : `${roughly(etaS)} left`;
}

export function showProgress(bar, job) {
  const stepCells = Math.min(job.progress.total_steps || job.request.num_inference_steps, MOST_STEP_CELLS);
  if (bar.childElementCount !== stepCells + 4) bar.replaceChildren(...cells(stepCells));
  bar.dataset.many = String(stepCells > 20);
  const current = currentCell(job, stepCells);
  [...bar.children].forEach((cell, index) => {
    cell.classList.toggle("done", index < current);
    cell.classList.toggle("current", index === current && job.state === "running");
  });
  const percent = Math.round(job.progress.fraction * 100);
  bar.setAttribute("aria-valuenow", String(percent));
  bar.setAttribute("aria-valuetext", `${stageWords(job)}, ${percent} percent`);
}

function cells(stepCells) {
  const cell = (kind, label) => el("div", { class: "progress-cell", "data-kind": kind, "aria-hidden": "true" },
    label ? el("span", { class: "progress-label" }, label) : "");
  const stage = (name) => cell("stage", STAGE_WORDS[name]);
  const labelEvery = Math.ceil(stepCells / 10);
  const steps = Array.from({ length: stepCells }, (_, index) =>
    cell("step", index % labelEvery === 0 ? String(index + 1) : ""));
  return [...["start", "text"].map(stage), ...steps, ...["decode", "store"].map(stage)];
}

function currentCell(job, stepCells) {
  if (job.state === "succeeded") return stepCells + 4;
  if (job.state === "queued" || job.stage === null) return 0;
  const stage = STAGES.indexOf(job.stage);
  if (stage < 2) return stage;
  if (stage > 2) return stepCells + stage - 1;
  const share = job.progress.step / Math.max(1, job.progress.total_steps);
  return 2 + Math.min(stepCells - 1, Math.floor(share * stepCells));
}
