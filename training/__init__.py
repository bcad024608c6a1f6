"""How the demo checkpoint was made: draw a small world, learn it, distil it, measure it, pack it.

Stages, each resumable and under ten minutes on one H200-class GPU: judge, vae, denoiser, distil, evaluate,
export (`python -m training.run`). Nothing under `src/` imports this package.
"""
