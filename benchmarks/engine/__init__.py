"""A clip in the engine: stage by stage beside plain diffusers, option by option, and on a laptop."""
