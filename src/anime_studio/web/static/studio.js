// The studio page: submit a request, follow its job, show its clip; a reload resumes.

import { cancelJob, deleteClip, readJob, readReadiness, readRecipe, submit } from "./api.js";
import { byId, onSecondClick, pause, setText, token } from "./dom.js";
import { estimateWords } from "./estimate.js";
import { follow, isFinal } from "./follow.js";
import {
  applyRecipe, chosenResolution, firstInvalidField, readForm, requestWithNewSeed, usePrompt, watchChannel,
} from "./form.js";
import { addToHistory, readHistory, removeFromHistory, readPending, writePending } from "./history.js";
import { HistoryList } from "./history_list.js";
import { showProblem } from "./problems.js";
import { showSample } from "./sample.js";
import { Viewer } from "./viewer.js";

const READY_CHECK_MS = 15_000;
const UNREADY_CHECK_MS = 1500;
const SUBMIT_TRIES = 6;
const UNSUPPORTED = "unsupported_by_recipe";

const viewer = new Viewer();
const historyList = new HistoryList({ onOpen: open, onClear: () => byId("prompt").focus(), onUse: usePrompt, onDelete: remove });
let recipe = null;
let stopFollowing = () => null;

function followJob(jobId) {
  stopFollowing();
  stopFollowing = follow(jobId, {
    onJob(job) {
      viewer.show(job);
      delete byId("main").dataset.loading;
      if (!isFinal(job)) return;
      historyList.refresh(job.job_id);
      dispatchEvent(new Event("job-ended"));
    },
    onDisconnect: () => viewer.showReconnecting(),
    onError(problem) {
      delete byId("main").dataset.loading;
      showProblem(byId("job-problem"), problem);
    },
  });
}

async function open(jobId) {
  stopFollowing();
  try {
    viewer.show(await readJob(jobId));
    historyList.markCurrent(jobId);
    byId("result-title").focus();
    byId("frame").scrollIntoView({ block: "nearest" });
    if (!isFinal(viewer.job)) followJob(jobId);
  } catch (problem) {
    showProblem(byId("job-problem"), problem);
  }
}

/** Delete a clip at the studio and forget it here. */
async function remove(jobId) {
  try {
    await deleteClip(jobId).catch((problem) => {
      if (problem.status !== 404) throw problem; // its record was swept: nothing is left to delete
    });
    removeFromHistory(jobId);
    historyList.refresh(viewer.job?.job_id);
    if (viewer.job?.job_id === jobId) viewer.show(await readJob(jobId));
    byId("prompt").focus();
  } catch (problem) {
    showProblem(byId("job-problem"), problem);
  }
}

/** Send a request so that neither a lost answer nor a reload makes a second job. */
async function send(request, key = token()) {
  writePending({ request, key });
  setBusy(true);
  showProblem(byId("form-problem"), null);
  try {
    const job = await submitWithRetry(request, key);
    addToHistory(job);
    viewer.show(job);
    historyList.refresh(job.job_id);
    followJob(job.job_id);
    byId("frame").scrollIntoView({ block: "nearest" });
  } catch (problem) {
    showProblem(byId("form-problem"), problem);
    if (problem.code === UNSUPPORTED) renewRecipe().catch(() => null); // the next refusal tries again
  } finally {
    writePending(null);
    setBusy(false);
  }
}

async function submitWithRetry(request, key) {
  for (let tries = 1; ; tries++) {
    try {
      return await submit(request, key);
    } catch (problem) {
      const retryable = problem.code === "offline" || problem.code === "unavailable";
      if (!retryable || tries === SUBMIT_TRIES) throw problem;
      setText(byId("submit"), "The studio is not answering. Trying again…");
      await pause(500 * 2 ** (tries - 1));
    }
  }
}

function setBusy(busy) {
  byId("submit").disabled = busy;
  byId("again").disabled = busy;
  setText(byId("submit"), busy ? "Asking…" : "Draw the clip");
}

function onSubmit(event) {
  event.preventDefault();
  const invalid = firstInvalidField();
  if (invalid) {
    showProblem(byId("form-problem"), { title: "One thing is missing", detail: invalid.message, code: "invalid_request" });
    invalid.field.focus();
    return;
  }
  send(readForm(recipe));
}

async function onCancel() {
  byId("cancel").disabled = true;
  try {
    viewer.show(await cancelJob(viewer.job.job_id));
  } catch (problem) {
    showProblem(byId("job-problem"), problem);
  } finally {
    byId("cancel").disabled = false;
  }
}

/** Say in the light whether a clip can be drawn now; the browser itself knows first when it is offline. */
async function watchReadiness() {
  const light = byId("light");
  const showOffline = () => {
    light.dataset.status = "unavailable";
    setText(byId("light-words"), "Offline");
  };
  addEventListener("offline", showOffline);
  const names = { ready: "Ready", asleep: "Asleep, wakes with the next clip", starting: "Starting", unavailable: "Not ready yet" };
  for (;;) {
    try {
      const readiness = await readinessOfChoice();
      const { status } = readiness;
      light.dataset.status = status;
      setText(byId("light-words"), `${names[status]} · ${recipe?.name ?? "studio"}`);
      setText(byId("estimate"), estimateWords(readiness) || "\u00a0");
    } catch {
      light.dataset.status = "unavailable";
      setText(byId("light-words"), navigator.onLine ? "Not reachable" : "Offline");
    }
    const wait = pause(light.dataset.status === "ready" ? READY_CHECK_MS : UNREADY_CHECK_MS);
    await Promise.race([wait, nextCheck()]);
  }
}

/** The readiness for the size that is chosen; the form is renewed where that size is offered no more. */
async function readinessOfChoice() {
  try {
    return await readReadiness(chosenResolution());
  } catch (problem) {
    if (problem.code !== UNSUPPORTED) throw problem;
    await renewRecipe();
    return readReadiness(chosenResolution());
  }
}

/** Resolve when the readiness is worth reading again at once: the browser is online again, a job has ended, or the size
 *  that is asked for is another one. */
function nextCheck() {
  return new Promise((resolve) => {
    addEventListener("online", resolve, { once: true });
    addEventListener("job-ended", resolve, { once: true });
    byId("sizes").addEventListener("change", resolve, { once: true });
  });
}

/** Offer what the studio offers now: another recipe may have been deployed while this page was open. */
async function renewRecipe() {
  const current = await readRecipe();
  if (JSON.stringify(current) === JSON.stringify(recipe)) return;
  recipe = current;
  applyRecipe(recipe);
}

async function loadRecipe() {
  for (;;) {
    try {
      return await readRecipe();
    } catch (problem) {
      showProblem(byId("form-problem"), problem);
      await pause(2000);
    }
  }
}

async function main() {
  byId("submit").disabled = true;
  recipe = await loadRecipe();
  showProblem(byId("form-problem"), null);
  applyRecipe(recipe);
  watchChannel();
  byId("submit").disabled = false;
  byId("form").addEventListener("submit", onSubmit);
  byId("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("form").requestSubmit();
  });
  byId("cancel").addEventListener("click", onCancel);
  byId("use-prompt").addEventListener("click", () => usePrompt(viewer.job.request.prompt));
  onSecondClick(byId("delete"), "Delete for good?", () => remove(viewer.job.job_id));
  byId("again").addEventListener("click", () => send(requestWithNewSeed(viewer.job, recipe)));
  watchReadiness();
  const pending = readPending();
  const [newest] = readHistory();
  historyList.refresh(newest?.jobId);
  if (pending) await send(pending.request, pending.key);
  else if (newest) followJob(newest.jobId);
  else showSample(recipe);
  if (pending || !newest) delete byId("main").dataset.loading;
}

main();
