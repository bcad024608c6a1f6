// This browser's own jobs. A job id is a capability, so it stays here; links are always read again.

const HISTORY = "anime-studio.history";
const PENDING = "anime-studio.pending";
const LIMIT = 48;

function read(key, fallback) {
  try {
    return JSON.parse(localStorage.getItem(key)) ?? fallback;
  } catch {
    return fallback; // storage is off, or holds something else
  }
}

function write(key, value) {
  try {
    if (value === null) localStorage.removeItem(key);
    else localStorage.setItem(key, JSON.stringify(value));
  } catch {
    // Private windows may refuse; the page works without storage.
  }
}

/** Newest first: {jobId, prompt, seed}. */
export const readHistory = () => read(HISTORY, []);
export const clearHistory = () => write(HISTORY, null);

export function addToHistory(job) {
  const entry = { jobId: job.job_id, prompt: job.request.prompt, seed: job.request.seed };
  write(HISTORY, [entry, ...readHistory().filter(({ jobId }) => jobId !== job.job_id)].slice(0, LIMIT));
}

export const removeFromHistory = (removed) => write(HISTORY, readHistory().filter(({ jobId }) => jobId !== removed));

/** A request that was not answered yet: sent again with the same key after a reload, it is still one job. */
export const readPending = () => read(PENDING, null);
export const writePending = (value) => write(PENDING, value);
