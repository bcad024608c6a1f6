// The overlay's reports to the operator: sent in batches, bounded in number, lost without harm.

import { sendSignals } from "./api.js";

const FLUSH_EVERY_MS = 3000;
const LIMIT = 100;

export class Signals {
  constructor(source) {
    this.source = source;
    this.waiting = [];
    setInterval(() => this.flush(), FLUSH_EVERY_MS);
    addEventListener("pagehide", () => this.flush());
  }

  /** kind as in the contract's SignalKind; more may hold clip_id, value, detail. */
  add(kind, more = {}) {
    if (this.waiting.length < LIMIT) this.waiting.push({ kind, source: this.source, ...more });
  }

  flush() {
    if (this.waiting.length > 0) sendSignals(this.waiting.splice(0));
  }
}
