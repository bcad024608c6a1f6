// Follow one job to its end, across dropped connections and server restarts.

import { eventsPath, readJob } from "./api.js";
import { pause } from "./dom.js";

const FINAL = new Set(["succeeded", "failed", "cancelled"]);
const RETRY_MS = [500, 1000, 2000, 3000, 5000];

export const isFinal = (job) => FINAL.has(job.state);

/**
 * Read the job, then its events; start again when the connection breaks. Returns a function that stops.
 * Handlers: onJob(job), onDisconnect() when the connection broke, onError(problem) when another try cannot help.
 */
export function follow(jobId, handlers) {
  const control = new AbortController();
  run(jobId, handlers, control.signal);
  return () => control.abort();
}

async function run(jobId, { onJob, onDisconnect, onError }, signal) {
  let failures = 0;
  const report = (job) => {
    failures = 0;
    if (!signal.aborted) onJob(job);
    return isFinal(job);
  };
  while (!signal.aborted) {
    try {
      if (report(await readJob(jobId)) || (await listen(jobId, report, signal))) return;
    } catch (problem) {
      if (signal.aborted) return;
      if (!problem.retryable) return onError(problem);
    }
    if (signal.aborted) return;
    onDisconnect();
    await pause(RETRY_MS[Math.min(failures++, RETRY_MS.length - 1)]);
  }
}

/** Resolve to true at the job's end, to false when the stream broke. */
function listen(jobId, report, signal) {
  return new Promise((resolve) => {
    const source = new EventSource(eventsPath(jobId));
    const close = (ended) => {
      source.close();
      resolve(ended);
    };
    signal.addEventListener("abort", () => close(false), { once: true });
    source.addEventListener("job", (event) => {
      if (report(JSON.parse(event.data))) close(true);
    });
    // EventSource retries by itself, but not after an HTTP error; `run` retries in both cases.
    source.addEventListener("error", () => close(false));
  });
}
