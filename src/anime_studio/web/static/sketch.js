// The pencil layout in the frame: as much of it is drawn as of the job.

import { byId } from "./dom.js";

const lines = [...byId("sketch").children];
for (const line of lines) line.setAttribute("pathLength", "1");

export function drawSketch(fraction) {
  lines.forEach((line, index) => {
    const drawn = Math.min(1, Math.max(0, fraction * lines.length - index));
    line.style.strokeDashoffset = String(1 - drawn);
    line.style.visibility = drawn > 0 ? "visible" : "hidden"; // a round cap would leave a dot
  });
}
