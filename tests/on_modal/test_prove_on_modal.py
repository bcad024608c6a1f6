"""`anime-studio prove` against the control plane, with the real client and real containers: each fault, and a whole run."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from anime_studio.core.pricing import MODAL_RATES
from support.modal_plane import ControlPlane
from support.modal_plane.account import BilledObject

REPOSITORY = Path(__file__).parents[2]
KEYS = {"ANIME_STUDIO_SIGNING_KEYS": "k" * 43}
SHELL = {
    "PYTHONPATH": str(REPOSITORY / "src"),
    "ANIME_STUDIO_RECIPE": "tiny-random",
    "ANIME_STUDIO_GPU": "none",
    "ANIME_STUDIO_MAX_CONTAINERS": "1",
}
TIMEOUT_S = 1100
pytestmark = [
    pytest.mark.modal,
    pytest.mark.slow,
    pytest.mark.usefixtures("private_root"),
    pytest.mark.timeout(1500),
]


def deployed(
    plane: ControlPlane,
    tiny_checkpoint: Path | None = None,
    *,
    source: Path = REPOSITORY,
    **settings: str,
) -> None:
    plane.settings.extra_env["OMP_NUM_THREADS"] = "1"
    plane.secrets.create("anime-studio", KEYS)
    plane.account.rates = rates()
    for path in filter(Path.is_file, tiny_checkpoint.rglob("*") if tiny_checkpoint else ()):
        name = f"tiny-random/random-0/{path.relative_to(tiny_checkpoint)}"
        plane.volumes.write("anime-models", name, path.read_bytes())
    env = SHELL | settings | {"PYTHONPATH": str(source / "src")}
    plane.deploy("-m", "anime_studio.modal_app", cwd=source, env=env)


@pytest.fixture(scope="module")
def plane(tiny_checkpoint: Path) -> Iterator[ControlPlane]:
    with ControlPlane() as plane:
        deployed(plane, tiny_checkpoint)
        yield plane


def rates(gpu_factor: float = 1.0) -> dict[str, str]:
    """Prices for an hour, as a list might spell them."""
    gpus = {f"gpu_{name}": usd * 3600 * gpu_factor for name, usd in MODAL_RATES.gpu_usd_per_s.items() if usd}
    others = {
        "cpu": MODAL_RATES.cpu_core_usd_per_s * 3600,
        "memory": MODAL_RATES.memory_gib_usd_per_s * 3600,
        "sandbox_cpu": 1.0,
    }
    return {name: f"{usd:.8f}" for name, usd in (gpus | others).items()}


def prove(
    plane: ControlPlane, out: Path, *arguments: str, **settings: str
) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MODAL_", "ANIME_STUDIO_"))}
    command = [sys.executable, "-m", "anime_studio.cli", "prove", *arguments, "--json"]
    env |= plane.client_env() | SHELL | settings
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=out, timeout=TIMEOUT_S)


def rows_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.stdout, done.stderr
    return {row["name"]: row for row in json.loads(done.stdout)["rows"]}


def test_a_price_ten_percent_off_falls_short(plane: ControlPlane, tmp_path: Path):
    held = prove(plane, tmp_path, "--row", "prices")
    assert held.returncode == 0, held.stderr + held.stdout
    plane.account.rates = rates(gpu_factor=1.1)
    done = prove(plane, tmp_path, "--row", "prices")
    plane.account.rates = rates()
    assert done.returncode == 1
    prices = rows_of(done)["prices"]
    assert prices["verdict"] == "falls short" and "L4 +10.0%" in prices["detail"]
    assert ["L4", "$0.00022200", "$0.00024420", "+10.0%"] in prices["table"]


def test_restores_that_crash_give_the_verdict_cpu(plane: ControlPlane, tmp_path: Path):
    plane.containers.crash_restores = 3
    done = prove(plane, tmp_path, "--row", "starts", "--starts", "5")
    starts = rows_of(done)["starts"]
    assert done.returncode == 1 and starts["verdict"] == "falls short"
    assert "5 starts, kinds by the platform's record; 5 restores, 3 of them crashed" in starts["detail"]
    assert "ANIME_STUDIO_SNAPSHOT=cpu" in starts["detail"]
    assert {row[0]: row[1] for row in starts["table"][1:]} == {"plain": "3", "restore": "2"}


def test_a_container_stopped_in_the_middle_of_a_job_leaves_one_clip(plane: ControlPlane, tmp_path: Path):
    done = prove(plane, tmp_path, "--row", "preempt")
    preempt = rows_of(done)["preempt"]
    assert preempt["verdict"] == "holds", preempt["detail"]
    assert "it was taken 2 times, and ended as the same job with one clip" in preempt["detail"]


def test_a_budget_that_is_reached_stops_and_a_higher_one_goes_on(plane: ControlPlane, tmp_path: Path):
    few = ("--row", "prices", "--row", "starts", "--starts", "2")
    stopped = prove(plane, tmp_path, *few, "--budget-usd", "0.0005")
    rows = rows_of(stopped)
    assert stopped.returncode == 1 and rows["prices"]["verdict"] == "holds"
    assert rows["starts"]["verdict"] == "not checked" and "--budget-usd" in rows["starts"]["detail"]
    resumed = prove(plane, tmp_path, *few, "--budget-usd", "1")
    assert rows_of(resumed)["starts"]["verdict"] == "holds", resumed.stdout
    assert resumed.returncode == 0


def test_other_pixels_from_the_plain_paths_fall_short(
    control_plane: ControlPlane, tiny_checkpoint: Path, tmp_path: Path
):
    source = tmp_path / "source"
    shutil.copytree(REPOSITORY / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "demo"))
    for name in ("pyproject.toml", "constraints.txt", "constraints-gpu.txt"):
        shutil.copy(REPOSITORY / name, source)
    with (source / "src/anime_studio/engine/startup.py").open("a") as startup:
        startup.write(WRONG_PLAIN_PATHS)
    deployed(control_plane, tiny_checkpoint, source=source)
    done = prove(control_plane, tmp_path, "--row", "fast")
    fast = rows_of(done)["fast"]
    assert done.returncode == 1 and fast["verdict"] == "falls short", fast["detail"]
    assert "as started against plain: PSNR" in fast["detail"]
    assert (tmp_path / "prove" / "fast.png").read_bytes().startswith(b"\x89PNG")


WRONG_PLAIN_PATHS = """

_right = start_engine

def start_engine(*arguments, accelerate, **options):
    engine = _right(*arguments, accelerate=accelerate, **options)
    if not accelerate:
        decode = engine.decoder.decode
        engine.decoder.decode = lambda latents: decode(-latents)
    return engine
"""


def test_without_a_deployment_it_says_what_to_do(control_plane: ControlPlane, tmp_path: Path):
    done = prove(control_plane, tmp_path)
    assert done.returncode == 2 and "anime-studio deploy" in done.stderr


def test_the_bill_is_compared_when_its_hour_is_over(plane: ControlPlane, tmp_path: Path):
    folder = tmp_path / "prove"
    nothing = prove(plane, tmp_path, "bill")
    assert nothing.returncode == 2 and "first run: anime-studio prove" in nothing.stderr
    assert prove(plane, tmp_path, "--row", "links", "--row", "spend").returncode == 0
    early = prove(plane, tmp_path, "bill")
    assert "the hour is not complete" in rows_of(early)["bill"]["detail"]
    memory = json.loads((folder / "state.json").read_text())
    hours_ago = datetime.now(UTC) - timedelta(hours=3)
    memory["begun_at"] = memory["receipts"][0]["ended_at"] = hours_ago.isoformat()
    (folder / "state.json").write_text(json.dumps(memory))

    plane.account.has_reports = False
    refused = prove(plane, tmp_path, "bill")
    plane.account.has_reports = True
    assert refused.returncode == 1, "not every row holds"
    assert rows_of(refused)["bill"]["verdict"] == "not checked"
    assert "billing reports need the plan Team" in rows_of(refused)["bill"]["detail"]

    report = json.loads((folder / "report.json").read_text())
    hour, cpu_usd = hours_ago.replace(minute=0, second=0, microsecond=0), report["spent_usd"]
    by_resource = {"CPU": f"{cpu_usd:.8f}", "Memory": f"{cpu_usd / 3:.8f}"}
    plane.account.bill = [
        BilledObject("anime-studio", hour, by_resource, {"project": "anime-studio"}),
        BilledObject("another app", hour, {"H100": "40"}, {"project": "another"}),
    ]
    done = prove(plane, tmp_path, "bill")
    assert done.returncode == 0, done.stdout
    assert [line[0] for line in rows_of(done)["bill"]["table"]] == ["resource", "CPU", "Memory"]
    assert list(rows_of(done)) == ["links", "spend", "bill"]
    by_resource["CPU"] = "0.00000001"
    short = rows_of(prove(plane, tmp_path, "bill"))["bill"]
    assert short["verdict"] == "falls short" and "above the bill for CPU" in short["detail"]


def test_a_whole_run_holds_and_goes_on_where_it_stopped(tmp_path: Path):
    demo = {
        "ANIME_STUDIO_RECIPE": "demo",
        "ANIME_STUDIO_URL_TTL_S": "60",
        "ANIME_STUDIO_GENERATE_WAIT_S": "140",
    }
    with ControlPlane() as plane:
        deployed(plane, **demo)
        answered = rows_of(prove(plane, tmp_path, "--row", "prices", "--row", "first", **demo))["first"]
        late = "the first answer" in answered["detail"]  # this machine may be slower than the 140 s of a POST
        assert late or answered["verdict"] == "holds", answered["detail"]
        whole = prove(plane, tmp_path, "--starts", "2", **demo)
        rows = rows_of(whole)
        verdicts = {name: row["verdict"] for name, row in rows.items()}
        assert rows["first"] == answered, "what was paid for is not paid twice"
        del verdicts["first"]
        assert set(verdicts.values()) == {"holds"}, whole.stdout
        assert whole.returncode == (1 if late else 0)
        page = (tmp_path / "prove" / "report.html").read_text()
        assert "rows hold" in page and "data:image/png;base64," in page
