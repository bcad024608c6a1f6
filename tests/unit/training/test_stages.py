"""Every stage, two steps of a miniature, and the checkpoint they leave, read by the engine that serves it."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from anime_studio.checkpoints.store import Checkpoint
from anime_studio.core.errors import CheckpointError
from anime_studio.engine.loading.components import load_components
from training.config import STUDENT_STEPS, TINY
from training.export import write_manifest
from training.run import main
from training.upscaler import CONFIG

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="the renderer is compiled with g++")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    paths = [
        "--state",
        str(folder / "state"),
        "--results",
        str(folder / "results"),
        "--checkpoint",
        str(folder / "checkpoint"),
    ]
    torch.set_num_threads(1)
    main(
        [
            "judge",
            "vae",
            "denoiser",
            "distil",
            "upscaler",
            "evaluate_upscaler",
            "evaluate",
            "export",
            "--tiny",
            *paths,
        ]
    )
    return folder


def test_the_upscaler_is_measured_and_the_table_says_where(run):
    table = json.loads((run / "results" / "upscaler.json").read_text())
    assert table["psnr_db"] > 0
    assert table["seconds_on_2_cores"] > 0
    assert table["preferred_of_ten"] is None, "no viewer has chosen"
    assert table["measured_on"].keys() == {"device", "date", "torch", "commit"}
    assert (run / "results" / "upscaler.png").exists()


def test_evaluation_has_the_promised_fields(run):
    table = json.loads((run / "results" / "evaluation.json").read_text())
    assert table["prompts"] == TINY.prompts
    assert table["steps"] == STUDENT_STEPS
    assert table["guidance"] is None
    fractions = (
        "scene",
        "time_of_day",
        "weather",
        "action",
        "hair_colour",
        "clothes_colour",
        "hair_style",
        "face_whole",
    )
    assert all(0 <= table[name] <= 1 for name in fractions)
    assert table["vae_psnr_db"] > 0
    assert table["flicker_ratio"] > 0
    assert (run / "results" / "student_1.png").exists()


def test_curves_are_saved(run):
    names = {path.stem for path in (run / "state" / "curves").glob("*.png")}
    assert names == {"look_judge", "motion_judge", "face_judge", "vae", "denoiser", "distil", "upscaler"}


def test_the_engine_loads_what_was_exported(run):
    components = load_components(Checkpoint.at(run / "checkpoint"), torch.device("cpu"))
    assert components.vae.config.latents_std != [1.0] * 16
    assert components.scheduler_config["solver_order"] == 1
    assert components.upscaler is not None
    assert components.upscaler.config == CONFIG


def test_diffusers_own_pipeline_draws_with_it(run):
    from diffusers import WanPipeline

    pipeline = WanPipeline.from_pretrained(run / "checkpoint")
    pipeline.set_progress_bar_config(disable=True)
    frames = pipeline(
        "a girl", height=TINY.height, width=TINY.width, num_frames=TINY.frames, num_inference_steps=STUDENT_STEPS,
        guidance_scale=1.0, max_sequence_length=64, output_type="np",
    ).frames  # fmt: skip
    assert frames.shape == (1, TINY.frames, TINY.height, TINY.width, 3)


def test_what_ships_is_judged_as_the_engine_draws_it(run, tmp_path):
    judged_by = ["--state", str(run / "state"), "--checkpoint", str(run / "checkpoint")]
    main(["evaluate", "--shipped", "--tiny", *judged_by, "--results", str(tmp_path)])
    table = json.loads((tmp_path / "evaluation.json").read_text())
    in_training = json.loads((run / "results" / "evaluation.json").read_text())
    assert set(table["others"]) == {"rendered", "student_4_steps"}
    assert table["motion_ratio"] == pytest.approx(in_training["motion_ratio"], rel=0.02)
    assert table["flicker_ratio"] == pytest.approx(in_training["flicker_ratio"], rel=0.02)


def test_a_truncated_weight_file_is_refused_by_name(run, tmp_path):
    copy = shutil.copytree(run / "checkpoint", tmp_path / "copy")
    weights = copy / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"vae/diffusion_pytorch_model\.safetensors is truncated"):
        load_components(Checkpoint.at(copy), torch.device("cpu"))


def test_the_manifest_refuses_what_may_not_ship(tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(b"\0" * (15 * 2**20))
    with pytest.raises(ValueError, match=r"weights\.safetensors has 15728640 bytes"):
        write_manifest(tmp_path)


def test_a_shipped_checkpoint_can_be_gone_on_from(run, tmp_path):
    state = [
        "--state",
        str(tmp_path / "state"),
        "--checkpoint",
        str(run / "checkpoint"),
        "--results",
        str(tmp_path),
    ]
    main(["unpack", "vae", "denoiser", "--resume", "--decoder-only", "--tiny", *state])
    from training.autoencoder import load_vae

    before = load_vae(run / "checkpoint" / "vae").state_dict()
    after = load_vae(tmp_path / "state" / "vae").state_dict()
    assert torch.equal(before["encoder.conv_in.weight"], after["encoder.conv_in.weight"])
    assert not torch.equal(before["decoder.conv_in.weight"], after["decoder.conv_in.weight"])
