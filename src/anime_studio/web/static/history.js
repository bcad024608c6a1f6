// This browser's own jobs. Job ids are capabilities, so they stay here; links are always re-read.

const KEY = "anime-studio.history";
const PENDING = "anime-studio.pending";
const LIMIT = 48;

function read(key, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(key)) ?? otherwise;
  } catch {
    return otherwise; // storage is off, or holds something else
  }
}

function write(key, value) {
  try {
    if (value === null) localStorage.removeItem(key);
    else localStorage.setItem(key, JSON.stringify(value));
  } catch {
    // Private windows may refuse; the page works without a memory.
  }
}

/** Newest first: {jobId, prompt, seed}. */
export const entries = () => read(KEY, []);

export function remember(job) {
  const entry = { jobId: job.job_id, prompt: job.request.prompt, seed: job.request.seed };
  write(KEY, [entry, ...entries().filter(({ jobId }) => jobId !== job.job_id)].slice(0, LIMIT));
}

export const forget = (jobId) => write(KEY, entries().filter((entry) => entry.jobId !== jobId));
export const forgetAll = () => write(KEY, null);

/** A request on its way: sent again with the same key after a reload, it is still one job. */
export const pending = () => read(PENDING, null);
export const setPending = (value) => write(PENDING, value);
