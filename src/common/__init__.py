"""The contract that bot, OBS pipeline and endpoint share."""
