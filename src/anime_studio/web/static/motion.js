// Whether the person asked the system for less motion. Then nothing plays by itself.

const query = matchMedia("(prefers-reduced-motion: reduce)");

export const prefersReducedMotion = () => query.matches;
