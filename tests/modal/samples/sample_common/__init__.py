"""A sibling package, uploaded only because an image names it."""

GREETING = "hello"
