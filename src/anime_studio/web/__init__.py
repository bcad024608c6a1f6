"""The HTTP face: FastAPI lives here and nowhere else."""
