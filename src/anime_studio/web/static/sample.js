// The sample that a first visitor sees: a real clip of the demo checkpoint, made by docs/images/samples.py.

import { byId, setText } from "./dom.js";
import { prefersReducedMotion } from "./motion.js";

/** The recipe that made the sample and the thumbnails of the example prompts. */
export const SAMPLES_OF = "demo";

/** Play the sample in the empty frame, until a job is shown there. */
export function showSample(recipe) {
  const video = byId("video");
  byId("frame").dataset.view = "sample";
  video.hidden = false;
  video.poster = "static/sample.webp";
  video.src = "static/sample.mp4";
  video.muted = true;
  video.setAttribute("aria-label", "A sample clip of the demo checkpoint");
  if (!prefersReducedMotion()) video.play().catch(() => null);
  const maker = recipe.name === SAMPLES_OF ? "" : ` This deployment's recipe is ${recipe.name}; it makes other pictures.`;
  setText(byId("sample-note"), `A sample of the small demo checkpoint: “a girl with long pink hair on a beach at sunset”.${maker}`);
  byId("sample-note").hidden = false;
}

/** The frame is needed for a job. */
export function hideSample() {
  byId("sample-note").hidden = true;
  byId("video").setAttribute("aria-label", "The finished clip");
}
