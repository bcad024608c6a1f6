"""Weights in host memory: pinned buffers, layers streamed from them, and sleep."""
