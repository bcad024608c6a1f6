"""Pure rules: no torch, no FastAPI, no modal, no input or output."""
