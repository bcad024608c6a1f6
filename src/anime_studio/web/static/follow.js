// Follow one job to its end, through dropped connections and server restarts.

import { eventsPath, readJob } from "./api.js";
import { pause } from "./dom.js";

const FINAL = new Set(["succeeded", "failed", "cancelled"]);
const RETRY_MS = [500, 1000, 2000, 3000, 5000];

export const isFinal = (job) => FINAL.has(job.state);

/**
 * Read the job, then its events; after a break begin again. Returns a function that stops.
 * Handlers: onJob(job), onLost() when the connection broke, onGone(problem) when there is no such job.
 */
export function follow(jobId, handlers) {
  const control = new AbortController();
  run(jobId, handlers, control.signal);
  return () => control.abort();
}

async function run(jobId, { onJob, onLost, onGone }, signal) {
  let failures = 0;
  const tell = (job) => {
    failures = 0;
    if (!signal.aborted) onJob(job);
    return isFinal(job);
  };
  while (!signal.aborted) {
    try {
      if (tell(await readJob(jobId)) || (await listen(jobId, tell, signal))) return;
    } catch (problem) {
      if (signal.aborted) return;
      if (!problem.retryable) return onGone(problem);
    }
    if (signal.aborted) return;
    onLost();
    await pause(RETRY_MS[Math.min(failures++, RETRY_MS.length - 1)]);
  }
}

/** Resolve true at the job's end, false when the stream broke. */
function listen(jobId, tell, signal) {
  return new Promise((resolve) => {
    const source = new EventSource(eventsPath(jobId));
    const close = (ended) => {
      source.close();
      resolve(ended);
    };
    signal.addEventListener("abort", () => close(false), { once: true });
    source.addEventListener("job", (event) => {
      if (tell(JSON.parse(event.data))) close(true);
    });
    // EventSource would retry by itself, but not after an HTTP error; one way for both is simpler.
    source.addEventListener("error", () => close(false));
  });
}
