"""Real container processes on the uploaded files: calls, snapshots, cancellation, preemption, Volumes."""

from collections.abc import Iterator
from pathlib import Path

import modal
import pytest
from control_plane import ControlPlane, DeployedApp

SAMPLES = Path(__file__).parent / "samples"
pytestmark = pytest.mark.usefixtures("private_root")


@pytest.fixture(scope="module")
def deployed() -> Iterator[ControlPlane]:
    with ControlPlane() as plane:
        plane.secrets.create("sample-keys", {"SIGNING_KEY": "s3cret"})
        plane.volumes.write("models", "/v1/weights.bin", b"w")
        plane.volumes.write("models", "/v2/other.bin", b"w")
        plane.deploy("-m", "sample_studio.app", cwd=SAMPLES)
        yield plane


@pytest.fixture
def plane(deployed: ControlPlane) -> Iterator[ControlPlane]:
    """The deployed sample, with no container left from the test before and this process as its client."""
    for container in deployed.containers.all.values():
        if container.alive:
            deployed.stop_container(container)
    deployed.dicts.expire_all()
    with deployed.client():
        yield deployed


@pytest.fixture
def by_hand(plane: ControlPlane) -> Iterator[None]:
    """Inputs start no containers by themselves."""
    plane.settings.autoscale = False
    yield
    plane.settings.autoscale = True


@pytest.fixture
def app(plane: ControlPlane) -> DeployedApp:
    return plane.app("sample-studio")


def function(name: str) -> modal.Function:
    return modal.Function.from_name("sample-studio", name)


def generator() -> modal.Cls:
    return modal.Cls.from_name("sample-studio", "Generator")


def records() -> modal.Dict:
    return modal.Dict.from_name("records", create_if_missing=True)


def test_a_call_runs_in_a_container_that_has_only_the_uploaded_files(plane: ControlPlane):
    assert function("what_is_here").remote() == {
        "root": ["sample_common", "sample_studio"],
        "cwd": "/root",
        "baked": (SAMPLES / "requirements.txt").read_text(),
        "mode": "two words",
        "file": "/root/sample_studio/app.py",
        "greeting": "helloclip",
        "local": False,
    }


def test_the_same_disk_runs_any_python_command(plane: ControlPlane, app: DeployedApp):
    done = plane.python(
        app.function("web"), "-c", "import sample_studio.app as a, sys; print(sorted(sys.modules))"
    )
    assert done.returncode == 0, done.stderr
    assert "'sample_common'" in done.stdout and "'pytest'" not in done.stdout
    hidden = plane.python(app.function("web"), "-c", f"open({str(SAMPLES / 'requirements.txt')!r})")
    assert "FileNotFoundError" in hidden.stderr


def test_large_results_and_arguments_travel_as_blobs(plane: ControlPlane):
    assert len(function("big").remote(3 * 1024 * 1024)) == 3 * 1024 * 1024
    assert function("double").remote("ab" * 2_000_000) == "ab" * 4_000_000


def test_spawn_is_pending_then_done_then_expired(plane: ControlPlane, by_hand: None):
    call = function("double").spawn(21)
    with pytest.raises(TimeoutError):
        call.get(timeout=0)
    stats = function("double").get_current_stats()
    assert (stats.backlog, stats.num_total_runners, stats.num_running_inputs) == (1, 0, 0)
    plane.start_container(plane.app("sample-studio").function("double"))
    assert modal.FunctionCall.from_id(call.object_id).get(timeout=240) == 42
    assert function("double").get_current_stats().num_total_runners == 1
    plane.expire(call.object_id)
    with pytest.raises(modal.exception.OutputExpiredError):
        call.get(timeout=0)


def test_a_lost_call_is_an_internal_failure(plane: ControlPlane, by_hand: None):
    call = function("cancellable").spawn()
    plane.lose(call.object_id)
    with pytest.raises(modal.exception.InternalFailure):
        call.get(timeout=240)


def test_failures_are_retried_by_policy(plane: ControlPlane):
    assert function("third_time_lucky").remote() == 3


def test_an_attempt_over_its_timeout_is_ended(plane: ControlPlane):
    with pytest.raises(modal.exception.FunctionTimeoutError, match="timeout of 1s"):
        function("too_slow").remote()


def test_cancel_reaches_the_running_function_and_the_waiting_one(plane: ControlPlane):
    running, waiting = function("cancellable").spawn(), function("cancellable").spawn()
    plane.wait_until(lambda: records().get("started"), "the first call to run")
    waiting.cancel()
    running.cancel()
    for call in (waiting, running):
        with pytest.raises(modal.exception.RemoteError):
            call.get(timeout=240)
    plane.wait_until(lambda: records().get("cleaned"), "the finally block to run")


def test_cancel_with_terminate_ends_the_container(plane: ControlPlane, app: DeployedApp):
    call = function("cancellable").spawn()
    plane.wait_until(lambda: records().get("started"), "the call to run")
    call.cancel(terminate_containers=True)
    with pytest.raises(modal.exception.RemoteError):
        call.get(timeout=240)
    assert not app.function("cancellable").containers[-1].alive


def test_a_scheduled_function_runs_on_request(plane: ControlPlane, app: DeployedApp):
    call_id = plane.run_schedule(app.function("sweep"))
    modal.FunctionCall.from_id(call_id).get(timeout=240)
    assert records()["swept"]


def test_hooks_run_around_snapshot_and_restore(plane: ControlPlane, app: DeployedApp):
    assert generator()().render.remote("a.mp4") == {
        "order": ["load", "wake"],
        "restored": True,
        "key": "s3cret",
    }
    container = app.function("Generator").containers[-1]
    assert container.restored_as and plane.volumes.read("clips")["a.mp4"] == b"whole"
    assert plane.stop_container(container) == 0
    assert records()["left"] == container.restored_as


def test_without_snapshots_the_same_hooks_run_back_to_back(plane: ControlPlane):
    plane.settings.snapshots = False
    try:
        result = generator()().render.remote("b.mp4")
    finally:
        plane.settings.snapshots = True
    assert result == {"order": ["load", "wake"], "restored": False, "key": "s3cret"}


def test_a_failed_restore_starts_again_without_the_snapshot(control_plane: ControlPlane):
    control_plane.secrets.create("sample-keys", {"SIGNING_KEY": "s3cret"})
    control_plane.settings.extra_env["BAD_RESTORE"] = "1"
    control_plane.deploy("-m", "sample_studio.app", cwd=SAMPLES)
    with control_plane.client():
        result = generator()().render.remote("c.mp4")
    assert result == {"order": ["load", "wake"], "restored": False, "key": "s3cret"}
    started = control_plane.app("sample-studio").function("Generator").containers
    assert [c.process.returncode for c in started] == [222, None] and started[1].alive


def test_a_preempted_input_runs_again_and_leaves_one_whole_clip(plane: ControlPlane, app: DeployedApp):
    call = generator()().render_slowly.spawn("slow.mp4")
    plane.wait_until(lambda: records().get("attempts") == 1, "the first attempt")
    plane.preempt(app.function("Generator").containers[-1])
    assert "slow.mp4" not in plane.volumes.read("clips")
    with pytest.raises(TimeoutError):
        call.get(timeout=0)
    plane.wait_until(lambda: records().get("attempts") == 2, "the second attempt")
    records()["go"] = True
    input_id = call.get(timeout=240)
    assert plane.volumes.read("clips")["slow.mp4"] == b"whole"
    delivered = plane.calls.calls[call.object_id].inputs[0]
    assert (
        delivered.input_id == input_id and len(set(delivered.deliveries)) == 2 and delivered.retry_count == 0
    )


def test_an_interrupted_container_runs_its_exit_hook_and_commits_what_is_there(
    plane: ControlPlane, app: DeployedApp
):
    generator()().render_slowly.spawn("cut.mp4")
    plane.wait_until(lambda: records().get("attempts") == 1, "the first attempt")
    plane.preempt(app.function("Generator").containers[-1], grace_s=240)
    assert records().get("left") and plane.volumes.read("clips")["cut.mp4"] == b"half"
    records()["go"] = True
    plane.wait_until(
        lambda: plane.volumes.read("clips")["cut.mp4"] == b"whole", "the second attempt to finish"
    )


def test_a_background_commit_shows_a_half_written_file(plane: ControlPlane, app: DeployedApp):
    call = generator()().render_slowly.spawn("seen.mp4")
    plane.wait_until(lambda: records().get("attempts") == 1, "the first attempt")
    plane.background_commit(app.function("Generator").containers[-1])
    assert plane.volumes.read("clips")["seen.mp4"] == b"half"
    records()["go"] = True
    call.get(timeout=240)


def test_another_containers_commit_is_seen_only_after_reload(plane: ControlPlane):
    assert function("read_twice").remote("late.txt") == (False, True)


def test_an_uncommitted_file_is_committed_at_a_clean_stop(plane: ControlPlane, app: DeployedApp):
    function("write").remote("quiet.txt", "x", commit=False)
    assert "quiet.txt" not in plane.volumes.read("clips")
    plane.stop_container(app.function("write").containers[-1])
    assert plane.volumes.read("clips")["quiet.txt"] == b"x"


def test_reload_is_refused_while_a_file_is_open(plane: ControlPlane):
    assert "there are open files preventing the operation: held.txt" in function("reload_while_open").remote()


def test_a_read_only_mount_shows_its_sub_path_and_refuses_writes(plane: ControlPlane):
    names, outcome = function("read_only").remote()
    assert names == ["weights.bin"] and outcome == "OSError30"


def test_modal_run_calls_a_remote_function_and_shows_its_output(plane: ControlPlane):
    done = plane.cli("run", "-m", "sample_studio.app", "--number", "21", cwd=SAMPLES)
    assert done.returncode == 0, done.stderr
    assert "twice is 42" in done.stdout
