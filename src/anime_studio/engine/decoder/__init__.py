"""The VAE's decoder: latents -> frames in host memory."""
