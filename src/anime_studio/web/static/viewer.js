// The picture: what the current job is doing, then its clip, recipe and receipt.

import { here, readJob } from "./api.js";
import { byId, el, say, seconds, usd } from "./dom.js";
import { isFinal } from "./follow.js";
import { showProblem } from "./problems.js";
import { drawSheet, etaWords, stageWords } from "./sheet.js";
import { drawSketch } from "./sketch.js";

const STALE_BEFORE_S = 20;
const RENEW_AT_MOST_EVERY_MS = 2000;

const SWEPT = { code: "clip_gone", title: "The clip is gone", detail: "It was drawn, kept for a while, and swept" };
const UNPLAYABLE = { code: "clip_unplayable", title: "This browser cannot play the clip",
  detail: "A fresh link did not help, so the browser may lack H.264" };

const isSwept = (job) => job.state === "succeeded" && job.clip === null;

export class Viewer {
  constructor() {
    this.job = null;
    this.video = byId("video");
    this.renewedAt = -Infinity;
    this.video.addEventListener("error", () => this.renewAfterError());
    byId("copy").addEventListener("click", () => this.copyLink());
    byId("download").addEventListener("click", (event) => this.download(event));
    setInterval(() => this.countDown(), 1000);
  }

  /** Show *job* as it stands; called for each of its versions. */
  show(job) {
    const isNew = this.job?.job_id !== job.job_id;
    if (!isNew && job.version < this.job.version) return;
    this.job = job;
    this.readAt = performance.now();
    byId("connection").hidden = true;
    if (isNew) say(byId("link-note"), "");
    this.showFrame(job, isNew);
    this.showProgress(job);
    showProblem(byId("job-problem"), isSwept(job) ? SWEPT : job.error);
    byId("actions").hidden = false;
    byId("cancel").hidden = isFinal(job);
    byId("again").hidden = !isFinal(job);
    byId("copy").hidden = byId("download").hidden = job.clip === null;
    showPapers(job);
  }

  showFrame(job, isNew) {
    const frame = byId("frame");
    frame.dataset.shape = job.request.height > job.request.width ? "portrait" : "landscape";
    frame.dataset.view = job.clip ? "clip" : isFinal(job) ? "ended" : "drawing";
    this.video.hidden = job.clip === null;
    if (job.clip === null) return this.unload();
    byId("download").setAttribute("download", `${job.clip.clip_id}.mp4`);
    if (isNew || !this.video.hasAttribute("src")) this.load(job.clip);
  }

  load(clip, atS = 0) {
    this.video.poster = here(clip.poster_url);
    this.video.src = here(clip.url);
    byId("download").href = here(clip.url);
    if (atS > 0) this.video.addEventListener("loadedmetadata", () => (this.video.currentTime = atS), { once: true });
    this.video.muted = true; // silent anyway; lets the first play begin by itself
    this.video.play().catch(() => null); // a browser that forbids it shows the poster and its controls
  }

  unload() {
    if (!this.video.hasAttribute("src")) return;
    this.video.removeAttribute("src");
    this.video.removeAttribute("poster");
    this.video.load();
  }

  showProgress(job) {
    const words = {
      succeeded: isSwept(job) ? "This clip is gone" : "Your clip is ready", failed: "No clip this time", cancelled: "Stopped",
    }[job.state] ?? stageWords(job);
    say(byId("stage"), words);
    say(byId("announcer"), job.state === "running" && job.stage === "denoise" ? "Drawing" : words);
    byId("sheet").hidden = isFinal(job) && job.state !== "succeeded";
    drawSheet(byId("sheet"), job);
    drawSketch(isFinal(job) ? 1 : job.progress.fraction);
    this.countDown();
  }

  countDown() {
    if (this.job === null) return;
    const etaS = this.job.progress.eta_s;
    const gone = (performance.now() - this.readAt) / 1000;
    say(byId("detail"), isFinal(this.job) || etaS === null ? "" : etaWords(Math.max(0, etaS - gone)));
  }

  lost() {
    const line = byId("connection");
    line.hidden = false;
    say(line, "The connection broke. Trying again; the clip goes on being drawn.");
  }

  linkIsStale() {
    return (performance.now() - this.readAt) / 1000 > this.job.clip.expires_in_s - STALE_BEFORE_S;
  }

  /** The clip with links that are good for a while. */
  async freshClip() {
    if (this.linkIsStale()) {
      this.job = await readJob(this.job.job_id);
      this.readAt = performance.now();
    }
    return this.job.clip;
  }

  /** A link dies while the page stays open: fetch another and go on where it was. */
  async renewAfterError() {
    if (!this.job?.clip) return;
    if (performance.now() - this.renewedAt < RENEW_AT_MOST_EVERY_MS) return showProblem(byId("job-problem"), UNPLAYABLE);
    this.renewedAt = performance.now();
    const atS = this.video.currentTime;
    try {
      this.show(await readJob(this.job.job_id));
      if (this.job.clip) this.load(this.job.clip, atS);
    } catch (problem) {
      showProblem(byId("job-problem"), problem);
    }
  }

  async copyLink() {
    try {
      const clip = await this.freshClip();
      await navigator.clipboard.writeText(new URL(here(clip.url), document.baseURI).href);
      say(byId("link-note"), `Link copied. It is good for ${seconds(clip.expires_in_s)}.`);
    } catch (error) {
      say(byId("link-note"), `The link could not be copied: ${error.message}. Use Download, or the video's own menu.`);
    }
  }

  async download(event) {
    if (!this.linkIsStale()) return;
    event.preventDefault();
    const clip = await this.freshClip().catch((problem) => showProblem(byId("job-problem"), problem));
    if (!clip) return;
    event.target.href = here(clip.url);
    event.target.click();
  }
}

function showPapers(job) {
  const { request, timings, cost, start_kind: startKind, clip } = job;
  byId("papers").hidden = false;
  fill(byId("recipe"), [
    ["Prompt", request.prompt],
    request.prompt_used !== request.prompt && ["As drawn", request.prompt_used],
    request.negative_prompt && ["Left out", request.negative_prompt],
    ["Seed", request.seed],
    ["Size", `${request.width} × ${request.height}, drawn at ${request.native_width} × ${request.native_height}`],
    ["Length", `${request.num_frames} frames at ${request.fps}/s`],
    ["Steps", request.num_inference_steps],
    ["Guidance", request.guidance_scale ?? "none"],
    ["Recipe", `${request.recipe} @ ${request.model_revision.slice(0, 12)}`],
  ]);
  fill(byId("receipt"), [
    ["Waited", seconds(timings.queue_s)],
    ["Worker ready", `${seconds(timings.start_s)}${startKind ? ` ${startKind}` : ""}`],
    ["Text", seconds(timings.text_s)],
    ["Drawing", seconds(timings.denoise_s)],
    ["Developing", seconds(timings.decode_s)],
    ["Storing", seconds(timings.store_s)],
    ["In all", seconds(timings.total_s), "total"],
    clip && ["File", `${(clip.size_bytes / 1e6).toFixed(2)} MB`],
    ["Cost", cost ? usd(cost.usd) : "–"],
  ]);
  say(byId("basis"), cost?.basis ?? "");
}

function fill(list, rows) {
  list.replaceChildren(...rows.filter(Boolean).flatMap(([name, value, kind]) => [
    el("dt", { class: kind }, name), el("dd", { class: kind }, String(value)),
  ]));
}
