"""How the demo checkpoint was made: render a small world, train on it, distil, evaluate, export.

Stages, each resumable and under ten minutes on one H200-class GPU: judge, vae, denoiser, distil, evaluate,
export (`python -m training.run`). Nothing under `src/` imports this package.
"""
