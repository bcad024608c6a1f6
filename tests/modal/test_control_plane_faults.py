"""Containers that must not start: the fault reaches the caller as Modal would report it."""

from pathlib import Path

import httpx
import modal
import pytest
from control_plane import ControlPlane

HEADER = 'import modal\napp = modal.App("tiny")\nimage = modal.Image.debian_slim(python_version="3.12")\n'
pytestmark = pytest.mark.usefixtures("private_root")


def deploy_tiny(plane: ControlPlane, folder: Path, body: str) -> None:
    (folder / "tiny.py").write_text(HEADER + body)
    plane.deploy("tiny.py", cwd=folder)


def call(plane: ControlPlane, name: str = "f") -> object:
    with plane.client():
        return modal.Function.from_name("tiny", name).remote()


def test_a_module_that_is_not_uploaded(control_plane: ControlPlane, tmp_path: Path):
    (tmp_path / "neighbour.py").write_text("VALUE = 7\n")
    body = "import neighbour\n@app.function(image={})\ndef f(): return neighbour.VALUE\n"
    deploy_tiny(control_plane, tmp_path, body.format("image"))
    with pytest.raises(ModuleNotFoundError, match="neighbour"):
        call(control_plane)
    started = control_plane.app("tiny").function("f").containers[-1]
    assert "No module named 'neighbour'" in started.log and not started.alive
    deploy_tiny(control_plane, tmp_path, body.format('image.add_local_python_source("neighbour")'))
    assert call(control_plane) == 7


def test_a_package_that_the_image_does_not_install(control_plane: ControlPlane, tmp_path: Path):
    body = "import pydantic\n@app.function(image={})\ndef f(): return pydantic.__name__\n"
    deploy_tiny(control_plane, tmp_path, body.format("image"))
    with pytest.raises(ModuleNotFoundError, match="pydantic"):
        call(control_plane)
    control_plane.settings.only_image_packages = False
    assert call(control_plane) == "pydantic"
    control_plane.settings.only_image_packages = True
    control_plane.stop_container(control_plane.app("tiny").function("f").containers[-1])
    deploy_tiny(control_plane, tmp_path, body.format('image.pip_install("pydantic")'))
    assert call(control_plane) == "pydantic"


def test_a_package_that_is_not_installed_here_is_named(control_plane: ControlPlane, tmp_path: Path):
    line = 'image.pip_install("no-such-distribution-here")'
    deploy_tiny(control_plane, tmp_path, f"@app.function(image={line})\ndef f(): return 1\n")
    assert call(control_plane) == 1
    assert control_plane.app("tiny").function("f").containers[-1].missing_packages == [
        "no-such-distribution-here"
    ]


@pytest.mark.parametrize("when", ["snap=True", "snap=False"])
def test_a_hook_that_raises(control_plane: ControlPlane, tmp_path: Path, when: str):
    deploy_tiny(
        control_plane,
        tmp_path,
        f"""
@app.cls(image=image, enable_memory_snapshot=True)
class Worker:
    @modal.enter({when})
    def load(self):
        raise FileNotFoundError("weights are missing")
    @modal.method()
    def run(self):
        return 1
""",
    )
    with control_plane.client(), pytest.raises(FileNotFoundError, match="weights are missing"):
        modal.Cls.from_name("tiny", "Worker")().run.remote()
    started = control_plane.app("tiny").function("Worker").containers[-1]
    assert started.start_failure is not None
    assert started.start_failure.exception == "FileNotFoundError('weights are missing')"
    assert 'raise FileNotFoundError("weights are missing")' in started.start_failure.traceback


def test_dependencies_under_a_conditional_that_differs_in_the_container(
    control_plane: ControlPlane, tmp_path: Path
):
    body = """
volumes = {"/v": modal.Volume.from_name("v", create_if_missing=True)} if modal.is_local() else {}
@app.function(image=image, volumes=volumes)
def f(): return 1
"""
    deploy_tiny(control_plane, tmp_path, body)
    with pytest.raises(modal.exception.RemoteError, match=r"dependencies but container got \d+ object ids"):
        call(control_plane)


def test_a_web_function_that_cannot_start_answers_500(control_plane: ControlPlane, tmp_path: Path):
    body = """
@app.function(image=image)
@modal.asgi_app()
def web():
    raise ValueError("no keys")
"""
    deploy_tiny(control_plane, tmp_path, body)
    answer = httpx.get(control_plane.app("tiny").function("web").web_url, timeout=240)
    assert answer.status_code == 500 and "no keys" in answer.text


def test_a_function_whose_containers_keep_dying_fails_in_the_end(control_plane: ControlPlane, tmp_path: Path):
    body = """
import os, signal
@app.function(image=image)
def f(): os.kill(os.getpid(), signal.SIGSEGV)
"""
    deploy_tiny(control_plane, tmp_path, body)
    with pytest.raises(modal.exception.InternalFailure, match="kept dying"):
        call(control_plane)
    started = control_plane.app("tiny").function("f").containers
    assert len(started) == 8 and {c.process.returncode for c in started} == {-11}


def test_class_parameters_reach_the_container_and_dynamic_options_are_refused(
    control_plane: ControlPlane, tmp_path: Path
):
    body = """
@app.cls(image=image)
class Worker:
    recipe: str = modal.parameter()
    @modal.method()
    def run(self): return self.recipe
"""
    deploy_tiny(control_plane, tmp_path, body)
    with control_plane.client():
        worker = modal.Cls.from_name("tiny", "Worker")
        assert worker(recipe="fast").run.remote() == "fast"
        with pytest.raises(modal.exception.UnimplementedError, match="with_options"):
            worker.with_options(timeout=5)(recipe="fast").run.remote()


def test_a_container_that_starts_too_slowly_is_ended(control_plane: ControlPlane, tmp_path: Path):
    body = """
import time
@app.cls(image=image, timeout=60, startup_timeout=2)
class Worker:
    @modal.enter()
    def load(self): time.sleep(60)
    @modal.method()
    def run(self): return 1
"""
    deploy_tiny(control_plane, tmp_path, body)
    with (
        control_plane.client(),
        pytest.raises(modal.exception.FunctionTimeoutError, match="startup timeout of 2s"),
    ):
        modal.Cls.from_name("tiny", "Worker")().run.remote()
