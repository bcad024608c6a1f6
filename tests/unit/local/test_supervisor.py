"""The supervisor with real child processes: small scripts that behave as workers do, or misbehave."""

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from anime_studio.local import supervisor as supervisor_module
from anime_studio.local.status import WorkerStatus
from anime_studio.local.supervisor import Supervisor
from anime_studio.settings import Settings


def says(**status: str) -> str:
    return f"print({json.dumps(json.dumps(status))}, flush=True)"


READY = says(status="ready", detail="ready", model_revision="r1")
BLOCKED = says(status="unavailable", detail="no weights", code="weights_missing", command="get them")
WAIT_FOR_ITS_END = "sys.stdin.read()"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"


async def until(look: Callable[[], object]) -> None:
    async with asyncio.timeout(180):
        while not look():
            await asyncio.sleep(0.01)


class Kept:
    """A supervisor over a script."""

    def __init__(self, folder: Path, *lines: str) -> None:
        self.told: list[WorkerStatus] = []
        self.killed = 0
        script = "\n".join(("import os, sys", "settings = sys.stdin.readline()", *lines))
        settings = Settings(data_dir=folder, drain_s=0, signing_keys=SecretStr("s3cret" * 8))
        self.supervisor = Supervisor(
            (sys.executable, "-c", script), settings, on_status=self.told.append, after_kill=self.note_kill
        )

    async def note_kill(self) -> None:
        self.killed += 1

    @property
    def process_id(self) -> int:
        process = self.supervisor._process
        assert process is not None
        return process.pid


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_module, "FIRST_DELAY_S", 0.01)
    monkeypatch.setattr(supervisor_module, "HAND_BACK_S", 180)


async def test_a_worker_gets_its_settings_without_secrets_and_pokes(tmp_path: Path) -> None:
    kept = Kept(
        tmp_path,
        f"open({str(tmp_path / 'settings')!r}, 'w').write(settings)",
        READY,
        "sys.stdin.readline()",
        f"open({str(tmp_path / 'poked')!r}, 'w').close()",
        WAIT_FOR_ITS_END,
    )
    async with kept.supervisor as supervisor:
        await until(lambda: supervisor.status.status == "ready")
        assert kept.told[-1].model_revision == "r1"
        passed = await asyncio.to_thread((tmp_path / "settings").read_text)
        assert "s3cret" not in passed
        assert Settings.model_validate_json(passed).data_dir == tmp_path
        supervisor.poke()
        await until((tmp_path / "poked").exists)
    assert kept.killed == 0


async def test_a_worker_that_dies_is_started_again(tmp_path: Path) -> None:
    kept = Kept(tmp_path, READY, WAIT_FOR_ITS_END)
    async with kept.supervisor as supervisor:
        for _ in range(3):
            await until(lambda: supervisor.status.status == "ready")
            first = kept.process_id
            os.kill(first, 9)
            await until(lambda: supervisor.status.status == "starting")
            assert "signal 9" in supervisor.status.detail
            await until(lambda first=first: supervisor._process and supervisor._process.pid != first)


async def test_a_worker_that_never_comes_up_is_said_to_be_unavailable(tmp_path: Path) -> None:
    kept = Kept(tmp_path, "sys.exit(7)")
    with capture_logs() as logs:
        async with kept.supervisor as supervisor:
            await until(lambda: supervisor.status.status == "unavailable")
    assert supervisor.status.code == "worker_died"
    assert "exited with code 7" in supervisor.status.detail
    assert [line["event"] for line in logs].count("worker.exited") >= 3


async def test_the_reason_a_worker_gave_outlives_it(tmp_path: Path) -> None:
    kept = Kept(tmp_path, BLOCKED, "sys.exit(1)")
    async with kept.supervisor as supervisor:
        await until(lambda: len(kept.told) >= 3)
        assert (supervisor.status.code, supervisor.status.command) == ("weights_missing", "get them")


async def test_a_worker_that_will_not_stop_is_killed_and_its_job_handed_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "HAND_BACK_S", 0.5)
    kept = Kept(tmp_path, DEAF, READY, "while True: import time; time.sleep(1)")
    async with kept.supervisor as supervisor:
        await until(lambda: supervisor.status.status == "ready")
        worker = kept.process_id
    assert kept.killed == 1
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


async def test_noise_on_the_status_pipe_is_no_status(tmp_path: Path) -> None:
    kept = Kept(tmp_path, "print('Loading… 100%', flush=True)", READY, WAIT_FOR_ITS_END)
    async with kept.supervisor as supervisor:
        await until(lambda: supervisor.status.status == "ready")
    assert len(kept.told) == 1


async def test_a_program_that_is_not_there_is_no_crash(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.supervisor._command = [str(tmp_path / "nowhere")]
    async with kept.supervisor as supervisor:
        await until(lambda: supervisor.status.status == "unavailable")
    assert "could not be started" in supervisor.status.detail
