"""Checkpoints on the disk: where they are, how they get there, whether they are whole. No torch."""
