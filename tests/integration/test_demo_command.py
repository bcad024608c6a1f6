"""`anime-studio demo` where its server cannot draw: it says why at once, and does not wait for an engine."""

from pathlib import Path

import pytest

from anime_studio.cli.output import ExitCode
from support.command_line import run
from support.engine import checkpoint_in, cut


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("fastwan-3step", "fetch them with: anime-studio weights fetch --recipe fastwan-3step"),
        ("tiny-random", "/vae/diffusion_pytorch_model.safetensors has "),
    ],
)
def test_what_a_person_must_mend_is_said_at_once(
    tmp_path: Path, tiny_checkpoint: Path, recipe: str, words: str
) -> None:
    cut(
        checkpoint_in(tmp_path / "models", tiny_checkpoint).folder / "vae/diffusion_pytorch_model.safetensors"
    )
    done = run("demo", "--recipe", recipe, "--models-dir", "models", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (ExitCode.UNAVAILABLE, ""), done.stderr
    assert words in done.stderr
