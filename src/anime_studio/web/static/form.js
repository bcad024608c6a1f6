// The form: its bounds come from the deployment's recipe, its values become a GenerateRequest.

import { byId, el, setText, token } from "./dom.js";
import { SAMPLES_OF } from "./sample.js";

/** Set the form's choices, bounds and values to the recipe's; again where another recipe was deployed. */
export function applyRecipe(recipe) {
  byId("sizes").replaceChildren(...recipe.sizes.map(sizeChoice));
  byId("size-field").hidden = recipe.sizes.length === 1;
  const thumbnails = recipe.name === SAMPLES_OF;
  byId("examples").replaceChildren(...recipe.examples.map((prompt, index) => example(prompt, thumbnails ? index : null)));
  range("duration", recipe.duration_s, (value) => `${value} s`);
  range("steps", recipe.num_inference_steps, String);
  byId("world").hidden = !recipe.world;
  setText(byId("world"), recipe.world ?? "");
  byId("guided").hidden = recipe.guidance_scale === null;
  if (recipe.guidance_scale) range("guidance", recipe.guidance_scale, (value) => (value === 1 ? "none" : String(value)));
}

/** Keep the overlay's link in step with the channel's name. */
export function watchChannel() {
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

/** An example prompt; with the picture that the demo made of it, where there is one. */
function example(prompt, index) {
  const picture = index === null ? "" : el("img", { src: `static/example-${index}.webp`, alt: "", width: 104, height: 60 });
  const button = el("button", { type: "button", class: "chip" }, picture, el("span", {}, prompt));
  button.addEventListener("click", () => usePrompt(prompt));
  return button;
}

/** Put *prompt* into the form, ready to be changed. */
export function usePrompt(prompt) {
  byId("prompt").value = prompt;
  byId("prompt").focus();
}

function range(id, { minimum, maximum, default: initial }, format) {
  const input = byId(id);
  Object.assign(input, { min: minimum, max: maximum, value: initial });
  if (byId(`${id}-field`)) byId(`${id}-field`).hidden = minimum === maximum; // one choice is none
  const showValue = () => setText(byId(`${id}-value`), format(Number(input.value)));
  input.oninput = showValue; // of this recipe alone
  showValue();
}

function linkOverlay() {
  const channel = byId("channel");
  const link = byId("overlay-link");
  link.hidden = !channel.value || !channel.checkValidity();
  if (!link.hidden) link.href = `overlay?channel=${encodeURIComponent(channel.value)}`;
}

/** The first field that is not valid, with a message; null when all are. */
export function firstInvalidField() {
  const messages = { prompt: "Say what the clip should show", seed: "The seed is a whole number from 0 to 4294967295",
    deadline: "The time is a whole number of seconds, at least 1",
    channel: "A channel name has 16 to 64 letters, digits, - or _" };
  for (const [id, message] of Object.entries(messages)) {
    const field = byId(id);
    const invalid = !field.checkValidity() || (id === "prompt" && !field.value.trim());
    field.setAttribute("aria-invalid", String(invalid));
    if (invalid) return { field, message };
  }
  return null;
}

export const chosenResolution = () => document.querySelector("input[name=resolution]:checked").value;

/** A GenerateRequest; a field that was not changed is left out, so that the recipe's default applies. */
export function readForm(recipe) {
  const request = {
    prompt: byId("prompt").value.trim(),
    resolution: chosenResolution(),
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

/** A job's request without its seed. */
export function requestWithNewSeed(job, recipe) {
  const { prompt, negative_prompt: negative, duration, resolution, num_inference_steps: steps, guidance_scale: guidance } = job.request;
  const request = { prompt, duration, resolution, source: "studio-page" };
  if (steps !== recipe.num_inference_steps.default) request.num_inference_steps = steps;
  if (recipe.guidance_scale) request.guidance_scale = guidance ?? 1;
  if (guidance !== null && negative) request.negative_prompt = negative;
  if (byId("channel").value && byId("channel").checkValidity()) request.channel = byId("channel").value;
  return request;
}
