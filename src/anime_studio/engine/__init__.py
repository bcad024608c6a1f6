"""Prompt to frames to MP4: torch, diffusers and PyAV live here and nowhere else."""
