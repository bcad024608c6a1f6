"""The supervisor with real child processes: small scripts that behave as workers do, or misbehave."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from pydantic import BaseModel, SecretStr
from structlog.testing import capture_logs

from anime_studio.core.errors import CheckpointError, WeightsMissingError
from anime_studio.core.readiness import not_ready, starting
from anime_studio.on_laptop.heartbeat import LONGEST_DETAIL, Heartbeat, bounded
from anime_studio.on_laptop.supervisor import Supervisor
from anime_studio.on_laptop.worker_process import READY as READINESS
from anime_studio.settings import Settings
from common.schemas import Stage


def reports(line: BaseModel) -> str:
    return f"print({line.model_dump_json()!r}, flush=True)"


READY = reports(READINESS)
BLOCKED = reports(not_ready(WeightsMissingError("no weights", command="get them")))
WAIT_FOR_ITS_END = "sys.stdin.read()"
IGNORE_SIGTERM = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"


async def until(look: Callable[[], object]) -> None:
    async with asyncio.timeout(120):
        while not look():
            await asyncio.sleep(0.01)


class SupervisorRig:
    """A supervisor over a script."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(data_dir=folder, drain_s=0, signing_keys=SecretStr("s3cret" * 8))
        self.kills = self.hangs = 0

    @asynccontextmanager
    async def over(
        self, *lines: str, command: Sequence[str] = (), requeue_within_s: float = 120
    ) -> AsyncIterator[Supervisor]:
        script = "\n".join(("import os, sys", "settings = sys.stdin.readline()", *lines))
        async with Supervisor(
            command or (sys.executable, "-c", script),
            self.settings,
            after_kill=self.count_kill,
            after_hang=self.count_hang,
            first_delay_s=0.01,
            requeue_within_s=requeue_within_s,
        ) as supervisor:
            yield supervisor

    async def count_kill(self) -> None:
        self.kills += 1

    async def count_hang(self) -> None:
        self.hangs += 1


@pytest.fixture
def rig(tmp_path: Path) -> SupervisorRig:
    return SupervisorRig(tmp_path)


async def test_a_worker_gets_its_settings_without_secrets_and_notifications(
    rig: SupervisorRig, tmp_path: Path
) -> None:
    async with rig.over(
        f"open({str(tmp_path / 'settings')!r}, 'w').write(settings)",
        READY,
        "sys.stdin.readline()",
        f"open({str(tmp_path / 'notified')!r}, 'w').close()",
        WAIT_FOR_ITS_END,
    ) as supervisor:
        await until(lambda: supervisor.readiness.ready)
        passed = await asyncio.to_thread((tmp_path / "settings").read_text)
        assert "s3cret" not in passed
        assert Settings.model_validate_json(passed).data_dir == tmp_path
        supervisor.notify()
        await until((tmp_path / "notified").exists)
    assert rig.kills == 0


async def test_a_worker_that_dies_is_started_again(rig: SupervisorRig) -> None:
    async with rig.over(READY, WAIT_FOR_ITS_END) as supervisor:
        for _ in range(3):
            await until(lambda: supervisor.readiness.ready)
            first = supervisor.worker_pid
            assert first is not None
            os.kill(first, 9)
            await until(lambda: not supervisor.readiness.ready)
            assert supervisor.readiness.status == "starting"
            assert "signal 9" in supervisor.readiness.detail
            await until(lambda first=first: supervisor.worker_pid not in (None, first))


async def test_a_worker_that_never_becomes_ready_is_reported_as_unavailable(rig: SupervisorRig) -> None:
    with capture_logs() as logs:
        async with rig.over("sys.exit(7)") as supervisor:
            await until(lambda: supervisor.readiness.status == "unavailable")
    problem = supervisor.readiness.problem
    assert problem is not None
    assert (problem.code, problem.status) == ("worker_died", 503)
    assert "exited with code 7" in problem.detail
    assert [line["event"] for line in logs].count("worker.exited") >= 3


async def test_the_reason_a_worker_gave_outlives_it(rig: SupervisorRig) -> None:
    with capture_logs() as logs:
        async with rig.over(BLOCKED, "sys.exit(1)") as supervisor:
            await until(lambda: [line["event"] for line in logs].count("worker.exited") >= 3)
            assert (supervisor.readiness.code, supervisor.readiness.command) == (
                "weights_missing",
                "get them",
            )


async def test_a_worker_that_will_not_stop_is_killed_and_its_job_requeued(rig: SupervisorRig) -> None:
    async with rig.over(
        IGNORE_SIGTERM, READY, "while True: import time; time.sleep(1)", requeue_within_s=0.5
    ) as supervisor:
        await until(lambda: supervisor.readiness.ready)
        worker = supervisor.worker_pid
        assert worker is not None
    assert rig.kills == 1
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


async def test_what_a_library_prints_is_no_readiness(rig: SupervisorRig) -> None:
    before = "print('Loading… 100%', flush=True); print('{\"ready\": 1}', flush=True)"
    async with rig.over(before, READY, WAIT_FOR_ITS_END) as supervisor:
        await until(lambda: supervisor.readiness.status != "starting")
        assert supervisor.readiness == READINESS


async def test_a_program_that_is_not_there_is_no_crash(rig: SupervisorRig, tmp_path: Path) -> None:
    async with rig.over(command=[str(tmp_path / "nowhere")]) as supervisor:
        await until(lambda: supervisor.readiness.status == "unavailable")
    assert "could not be started" in supervisor.readiness.detail


STOP_ITSELF = "import signal; os.kill(os.getpid(), signal.SIGSTOP)"


async def test_a_worker_that_is_silent_past_its_limit_is_killed_and_started_again(rig: SupervisorRig) -> None:
    beat = reports(Heartbeat(limit_s=1.0, stage=Stage.DENOISE))
    with capture_logs() as logs:
        async with rig.over(READY, beat, STOP_ITSELF) as supervisor:
            await until(lambda: supervisor.progress_age_s)
            first = supervisor.worker_pid
            await until(lambda: supervisor.worker_pid not in (None, first))
            await until(lambda: rig.hangs >= 1)
    (line, *_) = [line for line in logs if line["event"] == "worker.hung"]
    assert (line["pid"], line["stage"]) == (first, "denoise")
    assert line["silent_s"] > 1.0


async def test_a_worker_that_never_says_a_word_has_the_limit_of_loading(rig: SupervisorRig) -> None:
    rig.settings = rig.settings.model_copy(update={"hang_after_s": 0.05})
    async with rig.over(STOP_ITSELF):
        await until(lambda: rig.hangs >= 1)


async def test_signs_of_life_restart_the_count(rig: SupervisorRig) -> None:
    beat = reports(Heartbeat(limit_s=120))
    async with rig.over(READY, beat, "sys.stdin.readline()", beat, WAIT_FOR_ITS_END) as supervisor:
        await until(lambda: (supervisor.progress_age_s or 0) >= 1.0)
        supervisor.notify()
        await until(lambda: (supervisor.progress_age_s or 0) < 1.0)
    assert rig.hangs == 0


async def test_a_line_that_no_buffer_holds_ends_nothing(rig: SupervisorRig) -> None:
    async with rig.over("print('x' * 3_000_000, flush=True)", READY, WAIT_FOR_ITS_END) as supervisor:
        await until(lambda: supervisor.readiness.ready)


def test_a_reported_detail_is_bounded() -> None:
    reported = bounded(not_ready(CheckpointError("x" * 100_000)))
    assert reported.problem is not None
    assert reported.detail == reported.problem.detail
    assert len(reported.detail) == LONGEST_DETAIL


async def test_a_fault_of_the_supervisor_itself_is_logged_and_the_worker_started_again(
    rig: SupervisorRig,
) -> None:
    async def fail() -> None:
        raise RuntimeError("nobody expected this")

    rig.count_hang = fail  # type: ignore[method-assign]
    with capture_logs() as logs:
        async with rig.over(READY, reports(Heartbeat(limit_s=0.1)), STOP_ITSELF) as supervisor:
            await until(lambda: [line["event"] for line in logs].count("worker.spawned") >= 2)
            assert supervisor.readiness is not None
    assert "supervisor.failed" in [line["event"] for line in logs]


async def test_a_refused_checkpoint_stays_refused_while_the_next_worker_loads(
    rig: SupervisorRig, tmp_path: Path
) -> None:
    refused, second = not_ready(CheckpointError("shard 2 is truncated")), tmp_path / "second"
    async with rig.over(
        reports(starting("loading the model")),
        f"if not os.path.exists({str(second)!r}):",
        f"    open({str(second)!r}, 'w').close()",
        f"    {reports(refused)}",
        "    sys.exit(1)",
        reports(Heartbeat(limit_s=77)),  # once it is read, so is the line before it
        "sys.stdin.readline()",
        READY,
        WAIT_FOR_ITS_END,
    ) as supervisor:
        await until(lambda: supervisor._heartbeat.limit_s == 77)
        assert supervisor.readiness == refused
        supervisor.notify()
        await until(lambda: supervisor.readiness.ready)


async def test_the_workers_environment_has_no_signing_keys(
    rig: SupervisorRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANIME_STUDIO_SIGNING_KEYS", "s3cret" * 8)
    monkeypatch.setenv("ANIME_STUDIO_RECIPE", "demo")
    seen = tmp_path / "seen"
    async with rig.over(
        f"open({str(seen)!r}, 'w').write(repr(dict(os.environ)))", READY, WAIT_FOR_ITS_END
    ) as supervisor:
        await until(lambda: supervisor.readiness.ready)
    assert "s3cret" not in seen.read_text()
    assert "ANIME_STUDIO_RECIPE" in seen.read_text()


@pytest.mark.parametrize("own", [None, "backend:cudaMallocAsync"])
async def test_a_worker_takes_a_gpus_memory_in_pieces_unless_it_was_told_otherwise(
    rig: SupervisorRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str | None
) -> None:
    if own is None:
        monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
    else:
        monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", own)
    seen = tmp_path / "seen"
    async with rig.over(
        f"open({str(seen)!r}, 'w').write(os.environ['PYTORCH_CUDA_ALLOC_CONF'])", READY, WAIT_FOR_ITS_END
    ) as supervisor:
        await until(lambda: supervisor.readiness.ready)
    assert seen.read_text() == (own or "expandable_segments:True")
