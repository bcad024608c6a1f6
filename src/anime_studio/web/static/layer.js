// One of the overlay's two video elements: loads a clip, plays it, reports when its end is near.

import { sameOriginPath } from "./api.js";

const LOAD_LIMIT_MS = 30_000;
const STALL_LIMIT_MS = 10_000;
const WATCH_EVERY_MS = 100;

const MEDIA_ERRORS = ["", "MEDIA_ERR_ABORTED", "MEDIA_ERR_NETWORK", "MEDIA_ERR_DECODE", "MEDIA_ERR_SRC_NOT_SUPPORTED"];

class PlaybackError extends Error {}

export class Layer {
  constructor(video) {
    this.video = video;
    this.entry = null;
    this.watch = 0;
  }

  /** Load *entry* until it can play through. */
  load(entry) {
    this.entry = entry;
    const { video } = this;
    return new Promise((resolve, reject) => {
      const done = new AbortController();
      const settle = (settler, value) => {
        done.abort();
        clearTimeout(timer);
        settler(value);
      };
      const timer = setTimeout(() => settle(reject, new PlaybackError("LOAD_TIMEOUT")), LOAD_LIMIT_MS);
      video.addEventListener("canplaythrough", () => settle(resolve), { signal: done.signal });
      video.addEventListener("error", () => settle(reject, this.error()), { signal: done.signal });
      video.src = sameOriginPath(entry.clip.url);
      video.load();
    });
  }

  /** Resolve once the first frame is on screen. */
  async play() {
    await this.video.play();
    await new Promise((resolve) => {
      if (this.video.requestVideoFrameCallback && !document.hidden) this.video.requestVideoFrameCallback(resolve);
      setTimeout(resolve, 250); // a hidden page presents no frames
    });
  }

  /** Resolve when less than *leadS* is left; reject when playback fails or stalls. */
  nearEnd(leadS) {
    const { video } = this;
    clearInterval(this.watch);
    return new Promise((resolve, reject) => {
      let lastTime = -1;
      let movedAt = performance.now();
      this.watch = setInterval(() => {
        if (video.currentTime !== lastTime || document.hidden) {
          lastTime = video.currentTime;
          movedAt = performance.now();
        }
        const over = video.ended || video.duration - video.currentTime <= leadS;
        const stalled = performance.now() - movedAt > STALL_LIMIT_MS;
        if (!over && !video.error && !stalled) return;
        clearInterval(this.watch);
        if (over) resolve();
        else reject(video.error ? this.error() : new PlaybackError("STALLED"));
      }, WATCH_EVERY_MS);
    });
  }

  error() {
    return new PlaybackError(MEDIA_ERRORS[this.video.error?.code ?? 0] || "UNKNOWN");
  }

  /** Release the clip and its decoder. */
  clear() {
    this.entry = null;
    clearInterval(this.watch);
    this.video.className = "layer";
    this.video.removeAttribute("src");
    this.video.load();
  }
}
