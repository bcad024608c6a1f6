"""`python -m anime_studio.cli`."""

from anime_studio.cli import main

main()
