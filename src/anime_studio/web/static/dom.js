// Small helpers over the DOM. Text goes in as text, never as markup.

export const byId = (id) => document.getElementById(id);

export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

/** Set text only when it changed, so that live regions do not repeat themselves. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value >= 90) return `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;
  return value >= 10 ? `${Math.round(value)} s` : `${value.toFixed(2)} s`;
}

export function roughly(value) {
  if (value < 1.5) return "about a second";
  return value >= 90 ? `about ${Math.round(value / 60)} minutes` : `about ${Math.round(value)} seconds`;
}

export function usd(value) {
  return value === 0 ? "$0" : `$${value.toFixed(value < 0.1 ? 4 : 2)}`;
}

export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Do *act* at the second click: the first asks, and forgets that it did when the person goes elsewhere. */
export function onSecondClick(button, question, act) {
  const { textContent: words } = button;
  const label = button.getAttribute("aria-label");
  const setAsked = (asked) => {
    button.dataset.asked = String(asked);
    setText(button, asked ? question : words);
    if (label) button.setAttribute("aria-label", asked ? question : label);
  };
  button.addEventListener("blur", () => setAsked(false));
  button.addEventListener("click", () => {
    const wasAsked = button.dataset.asked === "true";
    setAsked(!wasAsked);
    button.focus(); // Safari does not focus a button that is clicked
    if (wasAsked) act();
  });
}

/** 16 random bytes in hex; crypto.randomUUID is missing on plain http. */
export function token() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
