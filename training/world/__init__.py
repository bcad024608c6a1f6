"""The small world the demo checkpoint knows: what may be in a clip, how it looks, and how people ask for it."""
