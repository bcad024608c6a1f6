"""How soon an engine is ready: a memory snapshot, a prepared checkpoint, and other ways to load weights."""
