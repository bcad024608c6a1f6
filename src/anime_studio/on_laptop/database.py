"""The one SQLite file of a local deployment: how it is opened, laid out and written.

A job is durable when the call that stores it returns: WAL with `synchronous=FULL` syncs
each commit. Every version of a job is a row of `events`, so that a stream can resume;
`jobs` holds the newest one. A file that cannot be read is reported, never replaced.

Sources: https://sqlite.org/wal.html, https://sqlite.org/pragma.html#pragma_synchronous,
https://sqlite.org/rescode.html.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from anime_studio.core.errors import ConfigurationError, DiskFullError, StorageError
from anime_studio.core.jobs import JobRecord

SCHEMA_VERSION: Final = 3
BUSY_TIMEOUT_S: Final = 10.0

_SCHEMA: Final = """
CREATE TABLE jobs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,  -- order of acceptance
    job_id TEXT NOT NULL UNIQUE,
    clip_id TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,
    version INTEGER NOT NULL,
    channel TEXT,
    hidden INTEGER NOT NULL DEFAULT 0,      -- 1: its clip waits to be shown; 2: the operator hid it
    shown_seq INTEGER,                      -- place of its clip on its channel: that of its end, or later when it was shown again
    finished_at REAL,                       -- Unix seconds, by the clock of that moment
    ended_seq INTEGER,                      -- event_id of the final version: order of the ends, whatever the clock
    cancel TEXT,                            -- the problem its owner's cancel leaves, as JSON
    record TEXT NOT NULL                    -- the newest JobRecord, as JSON
);
CREATE INDEX jobs_open ON jobs (state, seq) WHERE finished_at IS NULL;
CREATE INDEX jobs_finished ON jobs (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX jobs_ended ON jobs (ended_seq) WHERE ended_seq IS NOT NULL;
CREATE INDEX jobs_on_channel ON jobs (channel, shown_seq) WHERE channel IS NOT NULL;
CREATE TABLE show (
    name TEXT PRIMARY KEY,                  -- what the operator has decided
    value TEXT NOT NULL                     -- as JSON
);
CREATE TABLE events (
    event_id INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id TEXT NOT NULL REFERENCES jobs (job_id) ON DELETE CASCADE,
    version INTEGER NOT NULL,
    record TEXT NOT NULL,
    UNIQUE (job_id, version)
);
CREATE TABLE idempotency (
    key TEXT PRIMARY KEY,
    fingerprint TEXT NOT NULL,
    job_id TEXT NOT NULL REFERENCES jobs (job_id) ON DELETE CASCADE
);
CREATE INDEX idempotency_of_job ON idempotency (job_id);
"""

_FROM_VERSION_1: Final = """
ALTER TABLE jobs ADD COLUMN ended_seq INTEGER;
UPDATE jobs SET ended_seq = (
    SELECT event_id FROM events WHERE events.job_id = jobs.job_id AND events.version = jobs.version
) WHERE finished_at IS NOT NULL;
CREATE INDEX jobs_ended ON jobs (ended_seq) WHERE ended_seq IS NOT NULL;
"""

_FROM_VERSION_2: Final = """
ALTER TABLE jobs ADD COLUMN clip_id TEXT;
UPDATE jobs SET clip_id = json_extract(record, '$.clip_id');
CREATE UNIQUE INDEX jobs_of_clip ON jobs (clip_id);
ALTER TABLE jobs ADD COLUMN hidden INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN shown_seq INTEGER;
UPDATE jobs SET shown_seq = ended_seq;
DROP INDEX jobs_of_channel;
CREATE INDEX jobs_on_channel ON jobs (channel, shown_seq) WHERE channel IS NOT NULL;
CREATE TABLE show (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""

_LAYOUTS: Final = {0: (_SCHEMA,), 1: (_FROM_VERSION_1, _FROM_VERSION_2), 2: (_FROM_VERSION_2,)}
"""What brings a file of each version to the newest one."""


def prepare(path: Path) -> None:
    """Create the file when there is none; check it when there is.

    Raises:
        StorageError: It cannot be read, is damaged, or there is no room.
        ConfigurationError: A newer version of this program made it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = connect(path)
    try:
        with storage_errors(path):
            _create_or_check(connection, path)
    finally:
        connection.close()


def connect(path: Path, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> sqlite3.Connection:
    """Return a connection that syncs each commit and waits up to *busy_timeout_s* while another one writes.

    Raises:
        StorageError: The file cannot be opened or is damaged.
    """
    with storage_errors(path):
        connection = sqlite3.connect(
            path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
        except BaseException:
            connection.close()
            raise
        return connection


@contextmanager
def writing(connection: sqlite3.Connection) -> Iterator[None]:
    """Run the block as one transaction; no other process writes meanwhile."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Raise SQLite's errors as ours; their details name *path* and what to do."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            raise DiskFullError(f"no room to write {path}; free some space and try again") from error
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise StorageError(damaged(path, str(error))) from error
        raise StorageError(f"{path} cannot be used: {error}; check the disk and the file's owner") from error


def damaged(path: Path, reason: str) -> str:
    """Return the detail of an error about an unreadable database."""
    aside = path.parent / "damaged"
    return (
        f"the job database {path} is damaged ({' '.join(reason.split())}). Stop the server, move it aside with its "
        f"companions (mkdir {aside} && mv {path}* {aside}) and start again: its jobs are lost, finished clips stay"
    )


def insert(connection: sqlite3.Connection, job: JobRecord) -> None:
    """Store a new job, within a transaction."""
    record = job.model_dump_json()
    connection.execute(
        "INSERT INTO jobs (job_id, clip_id, state, version, channel, hidden, record) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (job.job_id, job.clip_id, job.state, job.version, job.channel, job.hold, record),
    )
    _insert_event(connection, job, record)


def update(connection: sqlite3.Connection, job: JobRecord) -> bool:
    """Store a job's next version, within a transaction; storing the same version again changes nothing.

    Returns:
        False when the job has ended otherwise: its first end stays.

    Raises:
        StorageError: Another version came in between, or the job was swept.
    """
    record = job.model_dump_json()
    finished_at = job.finished_at.timestamp() if job.state.final and job.finished_at else None
    changed = connection.execute(
        "UPDATE jobs SET state = ?, version = ?, finished_at = ?, record = ? WHERE job_id = ? AND version = ?",
        (job.state, job.version, finished_at, record, job.job_id, job.version - 1),
    ).rowcount
    if changed:
        event_id = _insert_event(connection, job, record)
        if finished_at is not None:
            connection.execute(
                "UPDATE jobs SET ended_seq = ?, shown_seq = ? WHERE job_id = ?",
                (event_id, event_id, job.job_id),
            )
        return True
    stored = _stored(connection, job.job_id)
    if stored == record:
        return True
    if stored is None or not JobRecord.model_validate_json(stored).state.final:
        raise StorageError(
            f"job {job.job_id} changed under its holder: version {job.version} is not its next"
        )
    return False


def _insert_event(connection: sqlite3.Connection, job: JobRecord, record: str) -> int | None:
    return connection.execute(
        "INSERT INTO events (job_id, version, record) VALUES (?, ?, ?)", (job.job_id, job.version, record)
    ).lastrowid


def _stored(connection: sqlite3.Connection, job_id: str) -> str | None:
    row = connection.execute("SELECT record FROM jobs WHERE job_id = ?", (job_id,)).fetchone()
    return None if row is None else str(row[0])


def _create_or_check(connection: sqlite3.Connection, path: Path) -> None:
    with writing(connection):
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version < SCHEMA_VERSION:
            for script in _LAYOUTS[version]:
                for statement in script.split(";\n"):
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    if version > SCHEMA_VERSION:
        raise ConfigurationError(
            f"{path} was made by a newer anime-studio (layout {version}, this one knows {SCHEMA_VERSION}); "
            "upgrade, or choose another folder with ANIME_STUDIO_DATA_DIR"
        )
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise StorageError(damaged(path, str(verdict)))
