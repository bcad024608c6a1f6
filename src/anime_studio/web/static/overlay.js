// The overlay: a channel's clips one after another, cross-faded; a fallback scene when there is none.

import { byId, pause } from "./dom.js";
import { Channel } from "./channel.js";
import { Layer } from "./layer.js";
import { Signals } from "./signals.js";

const parameters = new URLSearchParams(location.search);
const channelName = parameters.get("channel") ?? "";
const fadeMs = Math.min(3000, Math.max(0, Number(parameters.get("fade_ms") ?? 600) || 0));

const stage = byId("stage");
const signals = new Signals("overlay");
const channel = new Channel(channelName, (clipId) => signals.add("clip_skipped", { clip_id: clipId, detail: "queue full" }));
const layers = [new Layer(byId("layer-a")), new Layer(byId("layer-b"))];
let shown = null;

const spare = () => layers.find((layer) => layer !== shown);

/** Beneath the clips; shown when there is none. */
function fallback(on) {
  const scene = byId("fallback");
  if (scene.classList.contains("on") === on) return;
  scene.classList.toggle("on", on);
  const clip = byId("fallback-clip");
  if (on) {
    stage.dataset.showing = "fallback";
    signals.add("fallback_played");
    if (!clip.hidden) clip.play().catch(() => null);
  } else clip.pause();
}

/** Load the next clip on the spare layer, with a fresh link if need be; null when it will not play. */
async function prepare(entry) {
  for (let tries = 0; tries < 2; tries++) {
    try {
      const fresh = tries > 0 || channel.isStale(entry) ? await channel.renew(entry) : entry;
      if (fresh === null) break;
      if (fresh !== entry) signals.add("url_expired", { clip_id: entry.clip.clip_id, detail: "renewed" });
      await spare().load(fresh);
      return spare();
    } catch (error) {
      signals.add("playback_error", { clip_id: entry.clip.clip_id, detail: String(error.message).slice(0, 200) });
    }
  }
  spare().clear();
  signals.add("clip_skipped", { clip_id: entry.clip.clip_id, detail: "would not play" });
  channel.notePlayed(entry);
  return null;
}

/** Fade *next* in over what is shown, then let that go. */
async function crossFade(next) {
  await next.play();
  signals.add("latency_observed", { clip_id: next.entry.clip.clip_id, value: channel.ageS(next.entry) });
  channel.notePlayed(next.entry);
  const last = shown;
  next.video.classList.add("coming");
  shown = next;
  stage.dataset.showing = next.entry.clip.clip_id;
  await pause(fadeMs);
  next.video.classList.add("shown");
  next.video.classList.remove("coming");
  fallback(false);
  last?.clear();
}

/** Nothing follows: bring the fallback up under the last clip and fade the clip away. */
async function fadeToFallback() {
  fallback(true);
  if (shown === null) return;
  const last = shown;
  shown = null;
  last.video.classList.add("going");
  last.video.classList.remove("shown");
  await pause(fadeMs);
  last.clear();
}

/** The end of the clip on screen, however it comes. */
function endOfShown() {
  if (shown === null) return Promise.resolve();
  const { entry } = shown;
  return shown.nearEnd(fadeMs / 1000).catch((error) => {
    signals.add("playback_error", { clip_id: entry.clip.clip_id, detail: error.message });
  });
}

async function playForever() {
  for (;;) {
    const ending = endOfShown();
    if ((await Promise.race([channel.arrival().then(() => "arrived"), ending])) !== "arrived") {
      await fadeToFallback();
      await channel.arrival();
    }
    const next = await prepare(channel.take());
    if (next === null) continue;
    await ending;
    await crossFade(next).catch((error) => {
      signals.add("playback_error", { clip_id: next.entry.clip.clip_id, detail: error.message.slice(0, 200) });
      channel.notePlayed(next.entry);
      next.clear();
    });
  }
}

function begin() {
  document.documentElement.style.setProperty("--fade", `${fadeMs}ms`);
  document.documentElement.style.setProperty("--fit", parameters.get("fit") === "contain" ? "contain" : "cover");
  if (parameters.has("note")) byId("note").textContent = parameters.get("note");
  if (parameters.has("fallback")) {
    const clip = byId("fallback-clip");
    clip.addEventListener("error", () => {
      clip.hidden = true; // the scene beneath it goes on
      signals.add("playback_error", { detail: "fallback clip" });
    });
    clip.hidden = false;
    clip.src = parameters.get("fallback");
  }
  fallback(true);
  if (!/^[A-Za-z0-9_-]{16,64}$/.test(channelName)) {
    byId("setup").hidden = false;
    byId("setup").textContent = "This overlay needs ?channel=… in its address: the name that requests carry, 16 to 64 letters, digits, - or _.";
    return;
  }
  channel.run();
  playForever();
}

begin();
