// A channel's clips in the order in which they ended, each once, in bounded memory.
// The server numbers the ends and sends its own time, so the viewer's clock does not matter.

import { readChannel } from "./api.js";

const POLL_MS = 2000;
const POLL_WHILE_DRAWING_MS = 400; // so that a clip is on screen within a second of its end
const SLOWEST_POLL_MS = 15_000;
const FIRST_LOOK_BACK_MS = 10 * 60_000;
const QUEUE_LIMIT = 40;
const SEEN_LIMIT = 400;
const STALE_BEFORE_S = 20;
const MOST_PAGES = 10;

/** The number of the newest clip that is too old to begin with, by the server's clock; 0 for none. */
const newestTooOld = (clips, nowMs) =>
  clips.reduce((newest, { sequence, finished_at: at }) => (nowMs - Date.parse(at) > FIRST_LOOK_BACK_MS ? Math.max(newest, sequence) : newest), 0);

/** Add to a set of bounded size; the oldest goes first. */
function remember(set, value) {
  set.add(value);
  if (set.size > SEEN_LIMIT) set.delete(set.values().next().value);
}

export class Channel {
  /**
   * Handlers: onSkipped(clipId) for a clip that a full queue drops; onUpcoming(clips) after each answer, with the
   * clips that wait or are being drawn; onHidden(clipIds) too, with those that may be shown no more; onMissed() when a
   * clip that was upcoming will not come. *remember*: how many past clips to keep for replays.
   */
  constructor(name, { onSkipped, onUpcoming = () => null, onHidden = () => null, onMissed = () => null, remember = 0 }) {
    this.name = name;
    this.onSkipped = onSkipped;
    this.onUpcoming = onUpcoming;
    this.onHidden = onHidden;
    this.onMissed = onMissed;
    this.remember = remember;
    this.recent = [];
    this.upcoming = [];
    this.due = new Set();
    this.come = new Set();
    this.known = new Promise((resolve) => (this.becomeKnown = resolve));
    this.queue = [];
    this.seen = new Set();
    this.hidden = new Set();
    this.wake = null;
    this.key = `anime-studio.overlay.${name}`;
    this.after = this.readPlayed();
    this.startedFrom = this.after ?? 0;
  }

  /** Poll until the page closes; failures only make it slower. */
  async run() {
    if (this.remember > 0 && this.after !== null) await this.recall();
    for (let delay = POLL_MS; ; ) {
      try {
        await this.poll();
        this.becomeKnown();
        delay = this.upcoming.length > 0 ? POLL_WHILE_DRAWING_MS : POLL_MS;
      } catch {
        delay = Math.min(SLOWEST_POLL_MS, Math.max(delay, POLL_MS) * 1.6);
      }
      await new Promise((resolve) => setTimeout(resolve, delay));
    }
  }

  /** After a reload, learn the newest clips again, to replay them. */
  async recall() {
    const { clips, now } = await readChannel(this.name, null).catch(() => ({ clips: [] }));
    for (const entry of clips) {
      if (entry.sequence <= this.after) this.keep({ ...entry, readAtMs: performance.now(), nowMs: Date.parse(now) });
    }
  }

  async poll() {
    for (let page = 0; page < MOST_PAGES; page++) {
      const { clips, next_after: nextAfter, more, now, upcoming = [], hidden = [] } = await readChannel(this.name, this.after);
      const nowMs = Date.parse(now);
      // Nothing is known of what was played: at the first start, and when the server's records were replaced.
      if (this.after === null || nextAfter < this.after) this.startedFrom = newestTooOld(clips, nowMs);
      for (const entry of clips) this.enqueue({ ...entry, readAtMs: performance.now(), nowMs });
      this.after = nextAfter;
      for (const { created_at: at } of clips) remember(this.come, at);
      this.hide(hidden);
      if (more) continue;
      this.expect(upcoming);
      this.upcoming = upcoming;
      this.onUpcoming(upcoming);
      return;
    }
  }

  /** A clip that was upcoming, is so no more and has not come, has failed or was cancelled. */
  expect(upcoming) {
    const now = new Set(upcoming.map(({ created_at: at }) => at));
    if ([...this.due].some((at) => !now.has(at) && !this.come.has(at))) this.onMissed();
    this.due = now;
  }

  hide(clipIds) {
    this.hidden = new Set(clipIds);
    if (clipIds.length === 0) return;
    const isLeft = ({ clip }) => !clipIds.includes(clip.clip_id);
    this.queue = this.queue.filter(isLeft);
    this.recent = this.recent.filter(isLeft);
    for (const id of clipIds) this.seen.delete(id); // the operator may show it again
    this.onHidden(clipIds);
  }

  /** Whether the operator has hidden the clip since it was taken from the queue. */
  isHidden({ clip }) {
    return this.hidden.has(clip.clip_id);
  }

  enqueue(entry) {
    const id = entry.clip.clip_id;
    if (this.seen.has(id)) return;
    if (entry.sequence <= this.startedFrom) return this.keep(entry); // too old to be new, still good for a replay
    remember(this.seen, id);
    this.queue.push(entry);
    if (this.queue.length > QUEUE_LIMIT) this.onSkipped(this.queue.shift().clip.clip_id);
    this.wake?.();
  }

  /** Remember the clip for replays, newest first; a clip is kept once. */
  keep(entry) {
    const others = this.recent.filter(({ clip }) => clip.clip_id !== entry.clip.clip_id);
    this.recent = [entry, ...others].sort((a, b) => b.sequence - a.sequence).slice(0, this.remember);
  }

  forget(entry) {
    this.recent = this.recent.filter(({ clip }) => clip.clip_id !== entry.clip.clip_id);
  }

  get hasNew() {
    return this.queue.length > 0;
  }

  /** Resolves when a clip is waiting. One waiter at a time. */
  arrival() {
    if (this.hasNew) return Promise.resolve();
    return new Promise((resolve) => {
      this.wake = resolve;
    });
  }

  dequeue() {
    return this.queue.shift();
  }

  isStale(entry) {
    return (performance.now() - entry.readAtMs) / 1000 > entry.clip.expires_in_s - STALE_BEFORE_S;
  }

  /** The same clip with new links, or null when it was swept. */
  async renewLinks(entry) {
    const { clips, now } = await readChannel(this.name, entry.sequence - 1);
    const found = clips.find(({ clip }) => clip.clip_id === entry.clip.clip_id);
    return found ? { ...found, readAtMs: performance.now(), nowMs: Date.parse(now) } : null;
  }

  /** Seconds from the request to now, by the server's clock. */
  ageS(entry) {
    const nowMs = entry.nowMs + performance.now() - entry.readAtMs;
    return Math.max(0, (nowMs - Date.parse(entry.created_at)) / 1000);
  }

  /** Remember the clip, so that a reload of the source resumes after it. */
  markPlayed(entry) {
    try {
      localStorage.setItem(this.key, String(entry.sequence));
    } catch {
      // Without storage, a reload repeats the last ten minutes.
    }
  }

  /** The number of the clip that was played last, or null. */
  readPlayed() {
    try {
      const stored = localStorage.getItem(this.key);
      return /^[0-9]+$/.test(stored ?? "") ? Number(stored) : null;
    } catch {
      return null; // As in markPlayed.
    }
  }
}
