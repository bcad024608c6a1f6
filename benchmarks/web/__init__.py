"""What HTTP costs, and how fast the web container starts."""
