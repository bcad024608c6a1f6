// The pencil layout in the frame: the share of its lines that is visible is the job's progress.

import { byId } from "./dom.js";

const lines = [...byId("sketch").children];
for (const line of lines) line.setAttribute("pathLength", "1");

export function showSketch(fraction) {
  lines.forEach((line, index) => {
    const visible = Math.min(1, Math.max(0, fraction * lines.length - index));
    line.style.strokeDashoffset = String(1 - visible);
    line.style.visibility = visible > 0 ? "visible" : "hidden"; // a round line cap would leave a dot
  });
}
