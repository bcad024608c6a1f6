"""`weights fetch`, `update`, `list` and `prune` as real processes, against a model hub on loopback."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from anime_studio.core.recipes import FASTWAN_3STEP
from support.model_hub import FakeHub, Fault, Repository

REPO = str(FASTWAN_3STEP.repo_id)
OLD, NEW = "a" * 40, "b" * 40
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def hub(tiny_checkpoint: Path) -> Iterator[FakeHub]:
    with FakeHub() as hub:
        hub.repositories[REPO] = Repository()
        hub.repositories[REPO].commit(OLD, tiny_checkpoint)
        yield hub


@pytest.fixture
def weights(hub: FakeHub, tmp_path: Path) -> Run:
    environment = os.environ | {"HF_ENDPOINT": hub.url, "ANIME_STUDIO_MODELS_DIR": str(tmp_path / "models")}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "anime_studio.cli", "weights", *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=100
        )

    return run


def test_a_commit_is_fetched_kept_moved_and_pruned(hub, weights, tiny_checkpoint, tmp_path):
    first = weights("fetch", "--recipe", "fastwan-3step")
    assert first.returncode == 0, first.stderr
    assert f"{REPO} at {OLD}: 10 files" in first.stderr and "GB free" in first.stderr
    assert f"fastwan-3step at {OLD} is here and whole" in first.stdout

    hub.repositories[REPO].commit(NEW, tiny_checkpoint)
    assert OLD in weights("fetch", "--recipe", "fastwan-3step").stdout, "only `update` moves"
    moved = weights("update", "--recipe", "fastwan-3step")
    assert NEW in moved.stdout and f"before: {OLD}" in moved.stdout, moved.stderr
    assert "it was the newest already" in weights("update", "--recipe", "fastwan-3step").stdout

    listed = json.loads(weights("list", "--json").stdout)
    assert {item["revision"]: item["in_use"] for item in listed} == {OLD: False, NEW: True}
    back = weights("use", OLD, "--recipe", "fastwan-3step")
    assert back.returncode == 0 and "in use from the next start on" in " ".join(back.stdout.split()), (
        back.stderr
    )
    assert weights("use", "c" * 40, "--recipe", "fastwan-3step").returncode == 1
    assert weights("use", NEW, "--recipe", "fastwan-3step").returncode == 0
    in_use = tmp_path / "models/fastwan-3step/in_use"
    in_use.write_text("d" * 40)  # by hand, and wrong: what is here may be all that there is
    assert "everything here is in use" in weights("prune", "--yes").stdout
    in_use.write_text(NEW)
    unasked = weights("prune")
    assert unasked.returncode == 2 and "say --yes" in unasked.stderr
    assert "1 folders deleted" in weights("prune", "--yes").stdout
    assert [path.name for path in (tmp_path / "models/fastwan-3step").iterdir() if path.is_dir()] == [NEW]


@pytest.mark.parametrize(
    ("fault", "code", "status"),
    [
        (Fault("/api/", status=401, code="GatedRepo"), "hub_denied", 3),
        (Fault("/api/", status=404, code="RepoNotFound"), "hub_not_found", 2),
        (Fault("/api/", status=429), "hub_rate_limited", 6),
        (Fault("/api/", status=500), "hub_unreachable", 4),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Fault) else None,
)
def test_each_refusal_has_a_code_and_an_exit_status(hub, weights, fault, code, status):
    hub.faults.append(fault)

    result = weights("fetch", "--recipe", "fastwan-3step", "--json")

    assert (json.loads(result.stderr)["code"], result.returncode) == (code, status)
