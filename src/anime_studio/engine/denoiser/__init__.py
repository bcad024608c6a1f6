"""The denoiser: noisy latents and a prompt -> a velocity."""
