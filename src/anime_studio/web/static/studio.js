// The studio page: submit, follow, show; takes up where it was after a reload.

import { cancelJob, readJob, readReadiness, readRecipe, submit } from "./api.js";
import { byId, pause, say, token } from "./dom.js";
import { follow, isFinal } from "./follow.js";
import { firstMistake, fitForm, readForm, requestAgain } from "./form.js";
import { entries, pending, remember, setPending } from "./history.js";
import { showProblem } from "./problems.js";
import { Reel } from "./reel.js";
import { Viewer } from "./viewer.js";

const READY_CHECK_MS = 15_000;
const UNREADY_CHECK_MS = 1500;
const SUBMIT_TRIES = 6;

const viewer = new Viewer();
const reel = new Reel({ onOpen: open, onForget: () => byId("prompt").focus() });
let recipe = null;
let stopFollowing = () => null;

/** Follow a job from wherever it is. */
function attach(jobId) {
  stopFollowing();
  stopFollowing = follow(jobId, {
    onJob(job) {
      viewer.show(job);
      if (isFinal(job)) reel.refresh(job.job_id);
    },
    onLost: () => viewer.lost(),
    onGone: (problem) => showProblem(byId("job-problem"), problem),
  });
}

async function open(jobId) {
  stopFollowing();
  try {
    viewer.show(await readJob(jobId));
    reel.mark(jobId);
    byId("picture-title").focus();
    byId("frame").scrollIntoView({ block: "nearest" });
    if (!isFinal(viewer.job)) attach(jobId);
  } catch (problem) {
    showProblem(byId("job-problem"), problem);
  }
}

/** Send a request so that neither a lost answer nor a reload makes a second job. */
async function send(request, key = token()) {
  setPending({ request, key });
  busy(true);
  showProblem(byId("form-problem"), null);
  try {
    const job = await sendPatiently(request, key);
    remember(job);
    viewer.show(job);
    reel.refresh(job.job_id);
    attach(job.job_id);
    byId("frame").scrollIntoView({ block: "nearest" });
  } catch (problem) {
    showProblem(byId("form-problem"), problem);
  } finally {
    setPending(null);
    busy(false);
  }
}

async function sendPatiently(request, key) {
  for (let tries = 1; ; tries++) {
    try {
      return await submit(request, key);
    } catch (problem) {
      const passing = problem.code === "offline" || problem.code === "unavailable";
      if (!passing || tries === SUBMIT_TRIES) throw problem;
      say(byId("submit"), "The studio is not answering. Trying again…");
      await pause(500 * 2 ** (tries - 1));
    }
  }
}

function busy(is) {
  byId("submit").disabled = is;
  byId("again").disabled = is;
  say(byId("submit"), is ? "Asking…" : "Draw the clip");
}

function onSubmit(event) {
  event.preventDefault();
  const mistake = firstMistake();
  if (mistake) {
    showProblem(byId("form-problem"), { title: "One thing is missing", detail: mistake.words, code: "invalid_request" });
    mistake.field.focus();
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

async function watchReadiness() {
  const light = byId("light");
  const names = { ready: "Ready", asleep: "Asleep, wakes with the next clip", starting: "Starting", unavailable: "Not ready yet" };
  for (;;) {
    try {
      const { status } = await readReadiness();
      light.dataset.status = status;
      say(byId("light-words"), `${names[status]} · ${recipe?.name ?? "studio"}`);
    } catch {
      light.dataset.status = "unavailable";
      say(byId("light-words"), "Not reachable");
    }
    await pause(light.dataset.status === "ready" ? READY_CHECK_MS : UNREADY_CHECK_MS);
  }
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

async function begin() {
  byId("submit").disabled = true;
  recipe = await loadRecipe();
  showProblem(byId("form-problem"), null);
  fitForm(recipe);
  byId("submit").disabled = false;
  byId("form").addEventListener("submit", onSubmit);
  byId("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("form").requestSubmit();
  });
  byId("cancel").addEventListener("click", onCancel);
  byId("again").addEventListener("click", () => send(requestAgain(viewer.job, recipe)));
  watchReadiness();
  const unsent = pending();
  const [newest] = entries();
  reel.refresh(newest?.jobId);
  if (unsent) await send(unsent.request, unsent.key);
  else if (newest) attach(newest.jobId);
}

begin();
