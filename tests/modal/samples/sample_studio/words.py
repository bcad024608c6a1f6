"""A module beside the app."""

WORD = "clip"
