// An error as a person reads it: what happened, and for each code what to do next.

const ADVICE = {
  invalid_request: "Change the marked field and draw again.",
  unsupported_by_recipe: "Choose a size, length or setting that this recipe draws.",
  budget_exceeded: "Ask for fewer steps or a shorter clip.",
  deadline_unmeetable: "Allow more time under Options, or try again when fewer clips are waiting.",
  deadline_exceeded: "The clip was dropped because it came too late. Allow more time and draw again.",
  idempotency_conflict: "Draw again; it will count as a new request.",
  job_not_found: "Its record was swept. “Again with another seed” draws the same prompt anew.",
  queue_full: "Many clips are waiting. Try again shortly; your words are still in the form.",
  orders_paused: "Try again later; your words are still in the form.",
  budget_spent: "Come back then; your words are still in the form.",
  operator_only: "Enter the operator's key.",
  worker_died: "The worker fell over on this clip several times. Try again with other settings, or tell the operator.",
  worker_hung: "The worker went silent on this clip several times and was ended. Try again with other settings, or tell the operator.",
  engine_failed: "Try again with another seed. If it stays, tell the operator.",
  weights_missing: "The operator must fetch the model first; the message names the command.",
  checkpoint_invalid: "The operator must repair the model files; the message names the one.",
  frames_invalid: "The picture came out unusable. Another seed nearly always helps.",
  out_of_memory: "Ask for a shorter clip, or try again in a moment.",
  storage_failed: "Nothing was lost of what was accepted. Try again in a moment.",
  disk_full: "The operator must free space. Try again later.",
  clip_gone: "Clips are kept for a limited time. Draw it again with the same seed from the recipe.",
  clip_unplayable: "Download it and open it in a player, or use another browser.",
  url_expired: "Press play again: the page fetches a fresh link.",
  unavailable: "The studio is not taking work now. It may be restarting; try again in a moment.",
  offline: "Check the connection. The page keeps trying, and a clip that was accepted goes on being drawn.",
};

const FALLBACK = "Try again. If it stays, give the request id to the operator.";

const advice = (problem) => ADVICE[problem.code] ?? FALLBACK;

/** Fill an alert box; null hides it. */
export function showProblem(box, problem) {
  box.hidden = problem === null;
  box.replaceChildren();
  if (problem === null) return;
  const title = document.createElement("strong");
  title.textContent = problem.title ?? "Something went wrong";
  const text = document.createElement("p");
  text.textContent = `${problem.detail}. ${advice(problem)}`.replace(/([.!?])\./g, "$1");
  const reference = document.createElement("code");
  const requestId = problem.requestId ?? problem.request_id;
  reference.textContent = requestId ? `${problem.code} · request ${requestId}` : problem.code;
  box.append(title, text, reference);
  box.dataset.code = problem.code;
}
