// The overlay: plays a channel's clips one after another with a cross-fade. In the gaps it replays the last ones, if
// asked to, and then idles: with the night scene, with nothing at all, or with the last frame.

import { byId, pause } from "./dom.js";
import { Caption } from "./caption.js";
import { Channel } from "./channel.js";
import { Layer } from "./layer.js";
import { readOptions } from "./overlay_options.js";
import { Replays } from "./replays.js";
import { Signals } from "./signals.js";

const options = readOptions(location.search);
const stage = byId("stage");
const signals = new Signals("overlay");
const caption = new Caption(options.caption);
const channel = new Channel(options.channel, {
  onSkipped: (clipId) => signals.add("clip_skipped", { clip_id: clipId, detail: "queue full" }),
  onUpcoming: (clips) => caption.showUpcoming(clips),
  onHidden: takeDown,
  onMissed: noteFallback,
  remember: options.replay,
});
const replays = new Replays(channel, { loop: options.loop });
const layers = [new Layer(byId("layer-a")), new Layer(byId("layer-b"))];
let shown = null;
let ended = Promise.resolve();
let cut = () => null;

const hiddenLayer = () => layers.find((layer) => layer !== shown);

/** Show or hide the scene, which lies beneath the clips. */
function showScene(on) {
  const scene = byId("fallback");
  if (scene.classList.contains("on") === on) return;
  scene.classList.toggle("on", on);
  const clip = byId("fallback-clip");
  if (on) {
    stage.dataset.showing = "fallback";
    if (!clip.hidden) clip.play().catch(() => null);
  } else clip.pause();
}

/** A clip was due and does not come: tell the operator, if viewers see the scene instead. */
function noteFallback() {
  if (byId("fallback").classList.contains("on")) signals.add("fallback_played");
}

/** The operator hid clips: one that is on screen goes at once, without a fade. */
function takeDown(clipIds) {
  if (shown === null || !clipIds.includes(shown.entry.clip.clip_id)) return;
  const last = shown;
  shown = null;
  if (options.idle === "scene") showScene(true);
  stage.dataset.showing = options.idle === "scene" ? "fallback" : "nothing"; // also where the scene was still on
  caption.showClip(null);
  last.clear();
  cut();
}

/** Load the clip on the hidden layer, with new links if they are stale; null when it does not play. */
async function prepare(entry) {
  const layer = hiddenLayer(); // asked once: the operator may take the shown one down meanwhile
  for (let tries = 0; tries < 2; tries++) {
    try {
      const fresh = tries > 0 || channel.isStale(entry) ? await channel.renewLinks(entry) : entry;
      if (fresh === null) break;
      if (fresh !== entry) channel.keep(fresh);
      if (fresh !== entry && !entry.isReplay) signals.add("url_expired", { clip_id: entry.clip.clip_id, detail: "renewed" });
      await layer.load({ ...fresh, isReplay: entry.isReplay });
      return layer;
    } catch (error) {
      signals.add("playback_error", { clip_id: entry.clip.clip_id, detail: String(error.message).slice(0, 200) });
    }
  }
  layer.clear();
  drop(entry);
  return null;
}

/** Give a clip up: it is gone, or does not play. */
function drop(entry) {
  channel.forget(entry);
  if (entry.isReplay) return;
  signals.add("clip_skipped", { clip_id: entry.clip.clip_id, detail: "would not play" });
  noteFallback();
  channel.markPlayed(entry);
}

/** Fade *next* in over the shown layer, then clear that one. */
async function crossFade(next) {
  const { entry } = next;
  await next.play();
  if (channel.isHidden(entry)) return next.clear();
  if (!entry.isReplay) {
    signals.add("latency_observed", { clip_id: entry.clip.clip_id, value: channel.ageS(entry) });
    channel.markPlayed(entry);
    channel.keep(entry);
    replays.restart();
  }
  const last = shown;
  next.video.classList.add("entering");
  shown = next;
  ended = Promise.race([endOf(next), new Promise((resolve) => (cut = resolve))]);
  stage.dataset.showing = entry.clip.clip_id;
  caption.showClip(entry);
  await pause(options.fadeMs);
  if (shown === next) {
    next.video.classList.add("shown");
    next.video.classList.remove("entering");
    showScene(false);
  } // else the operator took it down as it faded in
  last?.clear();
}

/** Nothing follows: idle as the address asks. */
async function idle() {
  if (options.idle === "last-frame") return; // the shown clip stays at its end
  caption.showClip(null);
  if (options.idle === "scene") showScene(true);
  else stage.dataset.showing = "nothing";
  if (shown === null) return;
  const last = shown;
  shown = null;
  last.video.classList.add("leaving");
  last.video.classList.remove("shown");
  await pause(options.fadeMs);
  last.clear();
}

/** Resolve shortly before the clip's end, or when its playback fails. */
function endOf(layer) {
  const { entry } = layer;
  return layer.nearEnd(options.fadeMs / 1000).catch((error) => {
    signals.add("playback_error", { clip_id: entry.clip.clip_id, detail: error.message });
  });
}

/** Wait for the end of the shown clip, but let a new clip interrupt a replay, and take the place of one. */
async function turnOf(next) {
  if (shown?.entry.isReplay && !next.entry.isReplay) return;
  await (next.entry.isReplay ? Promise.race([ended, channel.arrival()]) : ended);
}

async function playClips() {
  await channel.known; // its past clips too, for replays
  for (;;) {
    const entry = channel.dequeue() ?? replays.next();
    if (!entry) {
      await Promise.race([channel.arrival(), ended]);
      if (!channel.hasNew) await idle();
      await channel.arrival();
      continue;
    }
    const next = await prepare(entry);
    if (next === null) continue;
    await turnOf(next);
    if (entry.isReplay && channel.hasNew) {
      replays.putBack(entry);
      continue;
    }
    await crossFade(next).catch((error) => {
      signals.add("playback_error", { clip_id: entry.clip.clip_id, detail: error.message.slice(0, 200) });
      drop(entry);
      next.clear();
    });
  }
}

function main() {
  document.documentElement.style.setProperty("--fade", `${options.fadeMs}ms`);
  document.documentElement.style.setProperty("--fit", options.fit);
  if (options.note !== null) byId("note").textContent = options.note;
  if (options.fallback !== null) {
    const clip = byId("fallback-clip");
    clip.addEventListener("error", () => {
      clip.hidden = true; // the scene beneath it stays
      signals.add("playback_error", { detail: "fallback clip" });
    });
    clip.hidden = false;
    clip.src = options.fallback;
  }
  if (options.idle === "scene") showScene(true);
  const problem = options.problem();
  if (problem) {
    byId("setup").hidden = false;
    byId("setup").textContent = problem;
    return;
  }
  channel.run();
  playClips();
}

main();
