"""The alert rules and the dashboard of examples/monitoring, against the series of a real server."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from support.server_rig import ServerRig

REPOSITORY = Path(__file__).parents[2]
MONITORING = REPOSITORY / "examples" / "monitoring"
NAME = re.compile(r"\banime_\w+")

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


def test_every_series_that_is_asked_for_is_there(rig: ServerRig, http: httpx.Client) -> None:
    http.post("/generate", json={"prompt": "a cat"}, headers={"Prefer": "respond-async"})
    rig.render_next()
    http.post("/telemetry/signals", json={"signals": [{"kind": "fallback_played"}]})
    http.get("/outputs/c_" + "0" * 32)
    there = set(NAME.findall(http.get("/metrics").text))

    panels = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    asked = "\n".join(target["expr"] for panel in panels for target in panel["targets"])
    asked += (MONITORING / "alerts.yml").read_text()

    assert set(NAME.findall(asked)) - there == set()


def test_every_alert_names_a_part_of_the_operators_page() -> None:
    page = (REPOSITORY / "docs" / "operating.md").read_text()
    headings = {
        re.sub(r"[^\w -]", "", line.strip("# ")).lower().replace(" ", "-")
        for line in page.splitlines()
        if line[:1] == "#"
    }
    runbooks = re.findall(r"runbook: docs/operating\.md#(\S+)", (MONITORING / "alerts.yml").read_text())

    assert runbooks and set(runbooks) <= headings


@needs_promtool
@pytest.mark.parametrize(
    "command", [["check", "config", "prometheus.yml"], ["test", "rules", "alerts_test.yml"]]
)
def test_promtool_accepts_rules_and_their_tests(command: list[str]) -> None:
    done = subprocess.run(["promtool", *command], cwd=MONITORING, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_promtool_finds_no_fault_in_the_series(http: httpx.Client) -> None:
    text = http.get("/metrics").text
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
