"""Run stages: `python -m training.run vae denoiser …`, or under `torchrun --nproc_per_node=N -m training.run …`.

Each stage reads what earlier ones left in the state folder, so a run can stop after any of them and go on later.
Seconds are budgets, not measurements: a stage learns until its time is up.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from training.checkpoint import unpack
from training.config import FULL, TINY
from training.denoiser import train_denoiser
from training.distil import distil
from training.evaluate import evaluate
from training.export import export
from training.judge_training import train_judges
from training.machine import Machine
from training.upscaler import train_upscaler
from training.upscaler_evaluation import evaluate_upscaler
from training.vae import train_vae

BUDGETS_S = {"judge": 90, "vae": 560, "denoiser": 560, "distil": 300, "upscaler": 300}
STAGES = (
    "unpack",
    "judge",
    "vae",
    "denoiser",
    "distil",
    "upscaler",
    "evaluate_upscaler",
    "evaluate",
    "export",
)
IN_ONE_PROCESS = frozenset({"unpack", "judge", "upscaler", "evaluate_upscaler", "evaluate", "export"})
"""Stages that the first process runs while the others wait."""


def main(arguments: list[str] | None = None) -> None:
    """Run the stages named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stages", nargs="+", choices=STAGES)
    parser.add_argument(
        "--state", type=Path, default=Path(".train-state"), help="what stages leave for each other"
    )
    parser.add_argument(
        "--budget-s", type=float, help=f"seconds for each training stage; by default {BUDGETS_S}"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on from the stage's own result in the state folder"
    )
    parser.add_argument(
        "--decoder-only", action="store_true", help="leave the VAE's encoder, and so the latents, as they are"
    )
    parser.add_argument(
        "--shipped", action="store_true", help="evaluate the checkpoint in the engine, on this CPU"
    )
    parser.add_argument(
        "--results", type=Path, default=Path("training/results"), help="table and contact sheets"
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=Path("src/anime_studio/checkpoints/demo"),
        help="what export writes and unpack reads",
    )
    parser.add_argument(
        "--part", choices=("student", "teacher"), default="student", help="which denoiser export packs"
    )
    parser.add_argument("--tiny", action="store_true", help="two steps of a miniature, on any machine")
    options = parser.parse_args(arguments)
    machine = Machine.start()
    options.state.mkdir(parents=True, exist_ok=True)
    run = stages(machine, options)
    for stage in options.stages:
        if machine.is_first or stage not in IN_ONE_PROCESS:
            run[stage]()
        machine.wait()


def stages(machine: Machine, options: argparse.Namespace) -> Mapping[str, Callable[[], Any]]:
    """Return what runs each of `STAGES`."""
    scale, state, checkpoint = TINY if options.tiny else FULL, options.state, options.checkpoint
    card, shipped = Path(__file__).parent / "MODEL_CARD.md", checkpoint if options.shipped else None
    resume = options.resume

    def limits(stage: str) -> dict[str, Any]:
        return {"budget_s": options.budget_s or BUDGETS_S[stage], "max_steps": 2 if options.tiny else None}

    return {
        "unpack": lambda: unpack(checkpoint, state),
        "judge": lambda: train_judges(machine.alone(), scale, state, **limits("judge")),
        "vae": lambda: train_vae(
            machine, scale, state, resume=resume, decoder_only=options.decoder_only, **limits("vae")
        ),
        "denoiser": lambda: train_denoiser(machine, scale, state, resume=resume, **limits("denoiser")),
        "distil": lambda: distil(machine, scale, state, **limits("distil")),
        "upscaler": lambda: train_upscaler(
            machine.alone(), scale, state, resume=resume, **limits("upscaler")
        ),
        "evaluate_upscaler": lambda: evaluate_upscaler(machine.alone(), scale, state, options.results),
        "evaluate": lambda: evaluate(machine.alone(), scale, state, options.results, shipped=shipped),
        "export": lambda: machine.log(
            f"{checkpoint}: {export(state, checkpoint, card, part=options.part)} bytes"
        ),
    }


if __name__ == "__main__":
    main()
