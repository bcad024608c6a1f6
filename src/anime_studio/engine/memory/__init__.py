"""Weights in host memory: pinned buffers, and sleep."""
