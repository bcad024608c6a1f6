// The service over fetch. Addresses are relative, so that the service also works under a path prefix.

/** An answer that is not a success: the server's problem+json body, or one of the same form made here. */
class Problem extends Error {
  constructor(body) {
    super(body.detail);
    Object.assign(this, { code: body.code, title: body.title, detail: body.detail, requestId: body.request_id });
    this.retryable = Boolean(body.retryable);
    this.status = body.status ?? 0;
    this.retryAfterS = body.retry_after_s ?? null;
  }
}

const OFFLINE = { code: "offline", title: "The studio cannot be reached", retryable: true };

async function call(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", ...options });
  } catch (error) {
    throw new Problem({ ...OFFLINE, detail: String(error.message ?? error) });
  }
  const body = await response.json().catch(() => null);
  if (response.ok && body !== null) return body;
  throw new Problem(body?.code ? body : unexpectedAnswer(response));
}

// A proxy's own page, or a server that is shutting down.
function unexpectedAnswer(response) {
  const retryable = response.status >= 500;
  return { code: retryable ? "unavailable" : "unexpected", title: "Unexpected answer", retryable, status: response.status,
    detail: `HTTP ${response.status} from ${new URL(response.url).pathname}` };
}

const json = (body, headers = {}) => ({
  method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json", ...headers },
});

/** Submit a request and return its job at once. The key makes a second try safe. */
export const submit = (request, key) =>
  call("generate", json(request, { "Idempotency-Key": key, Prefer: "respond-async" }));

export const readJob = (jobId) => call(`jobs/${jobId}`);
export const cancelJob = (jobId) => call(`jobs/${jobId}`, { method: "DELETE" });
/** Delete the clip; its record says that it is gone. */
export const deleteClip = (jobId) => call(`v1/videos/${jobId}`, { method: "DELETE" });
export const eventsPath = (jobId) => `jobs/${jobId}/events`;
export const readRecipe = () => call("recipe");
export const readStatus = () => call("status", { headers: { Accept: "application/json" } });
export const warm = () => call("warm", { method: "POST" });
const asOperator = (key) => (key === null ? {} : { Authorization: `Bearer ${key}` });
/** The show as its operator sees it; *key* is null on the server's own machine. */
export const readOperator = (key) => call("operator", { headers: asOperator(key) });
export const operate = (action, key) => call("operator", json(action, asOperator(key)));
/** The channel's clips above the sequence number *after*; without one, the newest. */
export const readChannel = (channel, after) =>
  call(`channels/${encodeURIComponent(channel)}/clips${after === null ? "" : `?after=${after}`}`);

/** Readiness, or the reason why not: `GET /ready` answers 503 until a worker can take jobs. The estimate in it is for a
 *  clip of *resolution*; without one, of the first size that is offered. */
export const readReadiness = (resolution) =>
  call(resolution ? `ready?resolution=${encodeURIComponent(resolution)}` : "ready").catch((problem) => {
    if (problem.status !== 503) throw problem;
    return { status: "unavailable", detail: problem.detail };
  });

/** Report to the operator; a lost report is ignored. */
export function sendSignals(signals) {
  return fetch("telemetry/signals", { ...json({ signals }), keepalive: true }).catch(() => null);
}

/** A signed link as a path on this origin: the signature covers the path, not the host. */
export function sameOriginPath(url) {
  return url.slice(url.search(/\/(outputs|watch)\//) + 1);
}
