// The request: bounds from the deployment's recipe, values to and from a GenerateRequest.

import { byId, el, say, token } from "./dom.js";

/** Fit the form to what the recipe draws. */
export function fitForm(recipe) {
  byId("sizes").replaceChildren(...recipe.sizes.map(sizeChoice));
  byId("examples").replaceChildren(...recipe.examples.map(exampleChip));
  range("duration", recipe.duration_s, (value) => `${value} s`);
  range("steps", recipe.num_inference_steps, String);
  byId("guided").hidden = recipe.guidance_scale === null;
  if (recipe.guidance_scale) range("guidance", recipe.guidance_scale, (value) => (value === 1 ? "none" : String(value)));
  byId("channel").addEventListener("input", linkOverlay);
  byId("new-channel").addEventListener("click", () => {
    byId("channel").value = `show-${token()}`;
    linkOverlay();
  });
}

function sizeChoice({ resolution, width, height }, index) {
  const id = `size-${resolution}`;
  const shape = height > width ? "portrait" : "landscape";
  return el("div", { class: "segment", "data-shape": shape },
    el("input", { type: "radio", name: "resolution", id, value: resolution, checked: index === 0 }),
    el("label", { for: id }, `${width} × ${height}`));
}

function exampleChip(prompt) {
  const chip = el("button", { type: "button", class: "chip" }, prompt);
  chip.addEventListener("click", () => {
    byId("prompt").value = prompt;
    byId("prompt").focus();
  });
  return chip;
}

function range(id, { minimum, maximum, default: standard }, words) {
  const input = byId(id);
  Object.assign(input, { min: minimum, max: maximum, value: standard, disabled: minimum === maximum });
  const tell = () => say(byId(`${id}-value`), words(Number(input.value)));
  input.addEventListener("input", tell);
  tell();
}

function linkOverlay() {
  const channel = byId("channel");
  const link = byId("overlay-link");
  link.hidden = !channel.value || !channel.checkValidity();
  if (!link.hidden) link.href = `overlay?channel=${encodeURIComponent(channel.value)}`;
}

/** The first field that cannot be sent, with words for it; null when all is well. */
export function firstMistake() {
  const fields = { prompt: "Say what the clip should show", seed: "The seed is a whole number from 0 to 4294967295",
    deadline: "The time is a whole number of seconds, at least 1",
    channel: "A channel name has 16 to 64 letters, digits, - or _" };
  for (const [id, words] of Object.entries(fields)) {
    const field = byId(id);
    const wrong = !field.checkValidity() || (id === "prompt" && !field.value.trim());
    field.setAttribute("aria-invalid", String(wrong));
    if (wrong) return { field, words };
  }
  return null;
}

/** A GenerateRequest; what was left alone stays out, so that the recipe decides. */
export function readForm(recipe) {
  const request = {
    prompt: byId("prompt").value.trim(),
    resolution: document.querySelector("input[name=resolution]:checked").value,
    duration: Number(byId("duration").value),
    source: "studio-page",
  };
  const put = (name, id, convert) => {
    if (byId(id).value !== "") request[name] = convert(byId(id).value);
  };
  put("seed", "seed", Number);
  put("deadline_s", "deadline", Number);
  put("channel", "channel", String);
  const steps = Number(byId("steps").value);
  if (steps !== recipe.num_inference_steps.default) request.num_inference_steps = steps;
  if (recipe.guidance_scale) {
    const guidance = Number(byId("guidance").value);
    if (guidance !== recipe.guidance_scale.default) request.guidance_scale = guidance;
    if (guidance > 1) put("negative_prompt", "negative", String);
  }
  return request;
}

/** The request that draws a job's clip again with a new seed. */
export function requestAgain(job, recipe) {
  const { prompt, negative_prompt: negative, duration, resolution, num_inference_steps: steps, guidance_scale: guidance } = job.request;
  const request = { prompt, duration, resolution, source: "studio-page" };
  if (steps !== recipe.num_inference_steps.default) request.num_inference_steps = steps;
  if (recipe.guidance_scale) request.guidance_scale = guidance ?? 1;
  if (guidance !== null && negative) request.negative_prompt = negative;
  if (byId("channel").value && byId("channel").checkValidity()) request.channel = byId("channel").value;
  return request;
}
