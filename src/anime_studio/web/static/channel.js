// A channel's clips in the order they finished, each once, in bounded memory.

import { readChannel } from "./api.js";

const POLL_MS = 2000;
const SLOWEST_POLL_MS = 15_000;
const OVERLAP_MS = 60_000;
const FIRST_LOOK_BACK_MS = 10 * 60_000;
const QUEUE_LIMIT = 40;
const SEEN_LIMIT = 400;
const FRESH_ENOUGH_S = 20;
const MOST_PAGES = 10;

export class Channel {
  /** onSkipped(clipId) is told of a clip that fell out of a full queue. */
  constructor(name, onSkipped) {
    this.name = name;
    this.onSkipped = onSkipped;
    this.queue = [];
    this.seen = new Set();
    this.clockOffsetMs = 0;
    this.wake = null;
    this.key = `anime-studio.overlay.${name}`;
    this.playedUpTo = this.remembered();
  }

  /** Poll for as long as the page lives; a failure only makes it slower. */
  async run() {
    for (let delay = POLL_MS; ; ) {
      try {
        await this.poll();
        delay = POLL_MS;
      } catch {
        delay = Math.min(SLOWEST_POLL_MS, delay * 1.6);
      }
      await new Promise((resolve) => setTimeout(resolve, delay));
    }
  }

  async poll() {
    // A clip may be kept a moment after the time it carries, so each look goes back a little further.
    let after = new Date(this.upTo() - OVERLAP_MS).toISOString();
    for (let page = 0; after !== null && page < MOST_PAGES; page++) {
      const { clips, next_after: nextAfter, now } = await readChannel(this.name, after);
      this.clockOffsetMs = Date.parse(now) - Date.now();
      for (const entry of clips) this.offer({ ...entry, readAtMs: performance.now() });
      after = nextAfter;
    }
  }

  upTo() {
    return Math.max(this.playedUpTo, Date.parse(this.queue.at(-1)?.finished_at ?? 0));
  }

  offer(entry) {
    const id = entry.clip.clip_id;
    if (this.seen.has(id) || Date.parse(entry.finished_at) <= this.startedFrom) return;
    this.seen.add(id);
    if (this.seen.size > SEEN_LIMIT) this.seen.delete(this.seen.values().next().value);
    this.queue.push(entry);
    if (this.queue.length > QUEUE_LIMIT) this.onSkipped(this.queue.shift().clip.clip_id);
    this.wake?.();
  }

  /** Resolves when a clip is waiting. One waiter at a time. */
  arrival() {
    if (this.queue.length > 0) return Promise.resolve();
    return new Promise((resolve) => {
      this.wake = resolve;
    });
  }

  take() {
    return this.queue.shift();
  }

  isStale(entry) {
    return (performance.now() - entry.readAtMs) / 1000 > entry.clip.expires_in_s - FRESH_ENOUGH_S;
  }

  /** The same clip with new links, or null when it was swept. */
  async renew(entry) {
    const justBefore = new Date(Date.parse(entry.finished_at) - 1000).toISOString();
    const { clips } = await readChannel(this.name, justBefore);
    const found = clips.find(({ clip }) => clip.clip_id === entry.clip.clip_id);
    return found ? { ...found, readAtMs: performance.now() } : null;
  }

  /** Seconds from the request to now, by the server's clock. */
  ageS(entry) {
    return Math.max(0, (Date.now() + this.clockOffsetMs - Date.parse(entry.created_at)) / 1000);
  }

  /** A reload of the source goes on after the last clip that was on screen. */
  notePlayed(entry) {
    this.playedUpTo = Date.parse(entry.finished_at);
    try {
      localStorage.setItem(this.key, entry.finished_at);
    } catch {
      // Without storage, a reload repeats the last ten minutes.
    }
  }

  remembered() {
    let stored = null;
    try {
      stored = localStorage.getItem(this.key);
    } catch {
      // As above.
    }
    this.startedFrom = Date.parse(stored ?? "") || Date.now() - FIRST_LOOK_BACK_MS;
    return this.startedFrom;
  }
}
