"""A chat line becomes an anime clip: Wan 2.1 over HTTP, on Modal or on a laptop."""

__version__ = "0.1.0"
