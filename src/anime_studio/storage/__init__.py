"""Where jobs and clips are kept: SQLite and a folder, or Modal."""
