// The viewer: the current job's progress, then its clip, recipe and receipt.

import { readJob, sameOriginPath } from "./api.js";
import { asCurl, asPython } from "./as_code.js";
import { copyText } from "./copying.js";
import { byId, el, seconds, setText, usd } from "./dom.js";
import { isFinal } from "./follow.js";
import { prefersReducedMotion } from "./motion.js";
import { showProblem } from "./problems.js";
import { etaWords, showProgress } from "./progress.js";
import { hideSample } from "./sample.js";
import { showSketch } from "./sketch.js";
import { STAGE_WORDS, stageWords } from "./stages.js";

const STALE_BEFORE_S = 20;
const MIN_RENEWAL_INTERVAL_MS = 2000;

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
    byId("copy-curl").addEventListener("click", () => copyText(asCurl(this.job), "Copied: the request as a curl command."));
    byId("copy-python").addEventListener("click", () => copyText(asPython(this.job), "Copied: the request as Python."));
    byId("download").addEventListener("click", (event) => this.download(event));
    setInterval(() => this.showEta(), 1000);
  }

  /** Show *job*; called for each of its versions. */
  show(job) {
    const isNew = this.job?.job_id !== job.job_id;
    if (!isNew && job.version < this.job.version) return;
    this.job = job;
    this.readAt = performance.now();
    byId("connection").hidden = true;
    if (isNew) {
      hideSample();
      setText(byId("link-note"), "");
      byId("copy-text").hidden = true;
    }
    this.showFrame(job, isNew);
    this.showStage(job);
    showProblem(byId("job-problem"), isSwept(job) ? SWEPT : job.state === "cancelled" ? null : job.error);
    showNotes(job.notes);
    byId("actions").hidden = false;
    byId("cancel").hidden = isFinal(job);
    byId("again").hidden = !isFinal(job);
    for (const id of ["copy", "watch", "download", "delete"]) byId(id).hidden = job.clip === null;
    document.title = titleOf(job);
    showDetails(job);
  }

  showFrame(job, isNew) {
    const frame = byId("frame");
    const { width, height } = job.request;
    frame.dataset.shape = height > width ? "portrait" : "landscape";
    frame.style.setProperty("--shape", `${width} / ${height}`); // 480p and 1080p are not of one shape
    frame.dataset.view = job.clip ? "clip" : isFinal(job) ? "ended" : "rendering";
    this.video.hidden = job.clip === null;
    if (job.clip === null) return this.unload();
    byId("watch").href = sameOriginPath(job.clip.watch_url);
    byId("download").setAttribute("download", `${job.clip.clip_id}.mp4`);
    if (isNew || !this.video.src.includes(job.clip.clip_id)) this.load(job.clip);
  }

  load(clip, atS = 0) {
    this.video.poster = sameOriginPath(clip.poster_url);
    this.video.src = sameOriginPath(clip.url);
    byId("download").href = sameOriginPath(clip.url);
    if (atS > 0) this.video.addEventListener("loadedmetadata", () => (this.video.currentTime = atS), { once: true });
    this.video.muted = true; // clips are silent; a muted video may start by itself
    this.video.loop = !prefersReducedMotion();
    if (prefersReducedMotion()) return; // the poster and the controls wait for the person
    this.video.play().catch(() => null); // as in a browser that forbids autoplay
  }

  unload() {
    if (!this.video.hasAttribute("src")) return;
    this.video.removeAttribute("src");
    this.video.removeAttribute("poster");
    this.video.load();
  }

  showStage(job) {
    const words = {
      succeeded: isSwept(job) ? "This clip is gone" : "Your clip is ready", failed: "No clip this time", cancelled: "Stopped, as you asked",
    }[job.state] ?? stageWords(job);
    setText(byId("stage"), words);
    setText(byId("announcer"), job.state === "running" && job.stage === "denoise" ? STAGE_WORDS.denoise : words);
    byId("progress").hidden = isFinal(job) && job.state !== "succeeded";
    showProgress(byId("progress"), job);
    showSketch(isFinal(job) ? 1 : job.progress.fraction);
    this.showEta();
  }

  showEta() {
    if (this.job === null) return;
    const etaS = this.job.progress.eta_s;
    const elapsedS = (performance.now() - this.readAt) / 1000;
    setText(byId("eta"), isFinal(this.job) || etaS === null ? "" : etaWords(Math.max(0, etaS - elapsedS)));
  }

  showReconnecting() {
    const line = byId("connection");
    line.hidden = false;
    setText(line, "The connection broke. Trying again; the clip goes on being drawn.");
  }

  linkIsStale() {
    return (performance.now() - this.readAt) / 1000 > this.job.clip.expires_in_s - STALE_BEFORE_S;
  }

  /** The clip with links that are still valid for a while. */
  async freshClip() {
    if (this.linkIsStale()) {
      this.job = await readJob(this.job.job_id);
      this.readAt = performance.now();
    }
    return this.job.clip;
  }

  /** A link expires while the page stays open: get a new one and resume at the same time. */
  async renewAfterError() {
    if (!this.job?.clip) return;
    if (performance.now() - this.renewedAt < MIN_RENEWAL_INTERVAL_MS) return showProblem(byId("job-problem"), UNPLAYABLE);
    this.renewedAt = performance.now();
    const atS = this.video.currentTime;
    try {
      this.show(await readJob(this.job.job_id));
      if (this.job.clip) this.load(this.job.clip, atS);
    } catch (problem) {
      showProblem(byId("job-problem"), problem);
    }
  }

  /** The page for people: its link is the server's public address, and lives as long as the clip. */
  copyLink() {
    return copyText(this.job.clip.watch_url, "Link copied. It shows the clip for as long as the clip is kept.");
  }

  async download(event) {
    if (!this.linkIsStale()) return;
    event.preventDefault();
    const clip = await this.freshClip().catch((problem) => showProblem(byId("job-problem"), problem));
    if (!clip) return;
    event.target.href = sameOriginPath(clip.url);
    event.target.click();
  }
}

/** The tab's title: how far the clip is, and when it is ready. */
function titleOf(job) {
  if (!isFinal(job)) return `${Math.round(job.progress.fraction * 100)} % · anime-studio`;
  if (job.state === "succeeded") return isSwept(job) ? "anime-studio" : "Ready · anime-studio";
  return job.state === "failed" ? "No clip · anime-studio" : "anime-studio";
}

function showNotes(notes) {
  const list = byId("notes");
  list.hidden = notes.length === 0;
  list.replaceChildren(...notes.map(({ code, detail }) => el("li", { "data-code": code }, `${detail}.`)));
}

function showDetails(job) {
  const { request, timings, cost, start_kind: startKind, clip } = job;
  byId("job-details").hidden = false;
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
    [STAGE_WORDS.queue, seconds(timings.queue_s)],
    [STAGE_WORDS.start, `${seconds(timings.start_s)}${startKind ? ` ${startKind}` : ""}`],
    [STAGE_WORDS.text, seconds(timings.text_s)],
    [STAGE_WORDS.denoise, seconds(timings.denoise_s)],
    [STAGE_WORDS.decode, seconds(timings.decode_s)],
    timings.upscale_s !== null && [STAGE_WORDS.upscale, seconds(timings.upscale_s)],
    [STAGE_WORDS.store, seconds(timings.store_s)],
    [STAGE_WORDS.total, seconds(timings.total_s), "total"],
    clip && ["File", `${(clip.size_bytes / 1e6).toFixed(2)} MB`],
    ["Cost", cost ? usd(cost.usd) : "–"],
  ]);
  setText(byId("basis"), cost?.basis ?? "");
}

function fill(list, rows) {
  list.replaceChildren(...rows.filter(Boolean).flatMap(([name, value, kind]) => [
    el("dt", { class: kind }, name), el("dd", { class: kind }, String(value)),
  ]));
}
