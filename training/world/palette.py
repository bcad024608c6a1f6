"""Named colours, as red, green and blue in [0, 1] under white light; the shader tints them by time of day."""

from __future__ import annotations

Colour = tuple[float, float, float]

HAIR: dict[str, Colour] = {
    "black": (0.16, 0.14, 0.20),
    "brown": (0.48, 0.30, 0.20),
    "blonde": (0.98, 0.84, 0.42),
    "red": (0.82, 0.22, 0.18),
    "pink": (0.98, 0.58, 0.74),
    "blue": (0.28, 0.46, 0.90),
    "silver": (0.84, 0.86, 0.93),
    "green": (0.32, 0.70, 0.42),
    "purple": (0.58, 0.36, 0.80),
}
CLOTHES: dict[str, Colour] = {
    "red": (0.88, 0.20, 0.22),
    "blue": (0.22, 0.42, 0.88),
    "white": (0.97, 0.97, 0.98),
    "black": (0.20, 0.19, 0.25),
    "yellow": (0.98, 0.86, 0.30),
    "green": (0.28, 0.68, 0.38),
    "pink": (1.0, 0.62, 0.76),
    "purple": (0.60, 0.38, 0.80),
    "orange": (0.98, 0.58, 0.20),
}
EYES: dict[str, Colour] = {
    "blue": (0.25, 0.50, 0.95),
    "green": (0.25, 0.72, 0.40),
    "brown": (0.55, 0.33, 0.18),
    "red": (0.85, 0.20, 0.25),
    "purple": (0.58, 0.32, 0.80),
    "golden": (0.95, 0.75, 0.20),
}
FUR: dict[str, Colour] = {
    "black": (0.17, 0.15, 0.19),
    "white": (0.97, 0.96, 0.95),
    "orange": (0.96, 0.62, 0.26),
    "gray": (0.62, 0.63, 0.68),
    "brown": (0.58, 0.40, 0.28),
}
