"""Run stages: `python -m training.run vae denoiser …`, or under `torchrun --nproc_per_node=N -m training.run …`.

Each stage reads what earlier ones left in the state folder, so a run can stop after any of them and go on later.
Seconds are budgets, not measurements: a stage learns until its time is up.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from training.config import FULL, TINY
from training.machine import Machine

BUDGETS_S = {"judge": 90, "vae": 560, "denoiser": 560, "distil": 300}
STAGES = ("unpack", "judge", "vae", "denoiser", "distil", "evaluate", "export")


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
        "--shipped", action="store_true", help="evaluate the checkpoint, drawn by the engine, on this CPU"
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
    for stage in options.stages:
        run_stage(stage, machine, options)
        machine.wait()


def run_stage(stage: str, machine: Machine, options: argparse.Namespace) -> None:
    """Run one stage; torch and diffusers are imported only by the stages that need them."""
    scale, state = TINY if options.tiny else FULL, options.state
    budget_s = float(options.budget_s or BUDGETS_S.get(stage, 0))
    max_steps = 2 if options.tiny else None
    if stage == "unpack" and machine.is_first:
        from training.checkpoint import unpack

        unpack(options.checkpoint, state)
    elif stage == "judge" and machine.is_first:
        from training.lessons import train_judges

        train_judges(machine.alone(), scale, state, budget_s=budget_s, max_steps=max_steps)
    elif stage == "vae":
        from training.vae import train_vae

        how = {"resume": options.resume, "decoder_only": options.decoder_only}
        train_vae(machine, scale, state, budget_s=budget_s, max_steps=max_steps, **how)
    elif stage == "denoiser":
        from training.denoiser import train_denoiser

        train_denoiser(machine, scale, state, budget_s=budget_s, max_steps=max_steps, resume=options.resume)
    elif stage == "distil":
        from training.distil import distil

        distil(machine, scale, state, budget_s=budget_s, max_steps=max_steps)
    elif stage == "evaluate" and machine.is_first:
        from training.evaluate import evaluate

        shipped = options.checkpoint if options.shipped else None
        evaluate(machine.alone(), scale, state, options.results, shipped=shipped)
    elif stage == "export" and machine.is_first:
        from training.export import export

        size_bytes = export(
            state, options.checkpoint, Path(__file__).parent / "MODEL_CARD.md", part=options.part
        )
        machine.say(f"{options.checkpoint}: {size_bytes} bytes")


if __name__ == "__main__":
    main()
