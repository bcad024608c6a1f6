// About how long and how much the next clip takes, before anyone presses the button.

import { seconds, usd } from "./dom.js";

/** In words, from GET /ready: "about 15 s, $0.0040, GPU asleep: 2 s more". */
export function estimateWords(readiness) {
  const { eta_s: etaS, usd_per_clip: cost, wake_s: wakeS, projected, queued, running, status } = readiness;
  const parts = [];
  if (etaS !== null && etaS !== undefined) parts.push(`about ${brief(etaS)}`);
  else if (cost === 0) parts.push("the first clip shows how long it takes here");
  if (cost !== null && cost !== undefined) parts.push(usd(cost));
  const ahead = (queued ?? 0) + (running ?? 0);
  if (ahead > 0) parts.push(`${ahead} ahead`);
  if (status === "asleep") parts.push(wakeS ? `GPU asleep: ${brief(wakeS)} more` : "GPU asleep: it wakes first");
  const words = parts.join(", ");
  return projected ? `${words} (projected, not measured)` : words;
}

const brief = (value) => (value < 9.5 ? `${Math.max(1, Math.round(value))} s` : seconds(Math.round(value)));
