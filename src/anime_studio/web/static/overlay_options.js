// The overlay's address: every option, its bounds and its default. examples/obs/README.md has the table.

const MOST_REPLAYS = 20; // as many as one answer of the channel holds
const IDLE = ["scene", "transparent", "last-frame"];
const CAPTION = ["who", "prompt"];

export function readOptions(search) {
  const given = new URLSearchParams(search);
  const number = (name, initial, most) => Math.min(most, Math.max(0, Number(given.get(name) ?? initial) || 0));
  const loop = ["1", "true"].includes(given.get("loop"));
  const options = {
    channel: given.get("channel") ?? "",
    fadeMs: number("fade_ms", 600, 3000),
    fit: given.get("fit") === "contain" ? "contain" : "cover",
    note: given.get("note"),
    fallback: given.get("fallback"),
    replay: Math.floor(number("replay", loop ? 1 : 0, MOST_REPLAYS)),
    loop,
    idle: given.get("idle") ?? "scene",
    caption: (given.get("caption") ?? "").split(",").filter(Boolean),
  };
  return { ...options, problem: () => problemOf(options) };
}

/** What is wrong with the address, in words for the person who typed it; null when nothing is. */
function problemOf({ channel, idle, caption }) {
  if (!/^[A-Za-z0-9_-]{16,64}$/.test(channel)) {
    return "This overlay needs ?channel=… in its address: the name that requests carry, 16 to 64 letters, digits, - or _.";
  }
  if (!IDLE.includes(idle)) return `idle=${idle} is not known. It may be: ${IDLE.join(", ")}.`;
  const unknown = caption.find((part) => !CAPTION.includes(part));
  return unknown ? `caption=${unknown} is not known. It may be: ${CAPTION.join(", ")}, or both with a comma.` : null;
}
