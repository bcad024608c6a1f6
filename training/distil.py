"""Stage `distil`: a student that takes four steps without guidance where the teacher takes sixteen with it.

The teacher's trajectories from noise to clip are kept in a pool that is refreshed as training goes. The student
learns to reach, in one step from each served sigma, where the teacher was at the next; half of the time it starts
not from the teacher's state but from where its own earlier steps led, so that it learns to mend its own errors.
Four teacher steps become one, as in progressive distillation (Salimans & Ho, 2022), with guidance folded in as in
Meng et al. (2023); the served steps are the only ones trained.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

from training.checkpoint import load_drawer
from training.clips import scenes_and_parameters
from training.config import GUIDANCE, STUDENT_STEPS, TEACHER_STEPS, Scale
from training.machine import Machine
from training.optimize import Learner, ramp
from training.report import Curve
from training.sampling import grid, guided, trajectory
from training.text import captions_of, embed, tokenize

RATE = 4e-4
OWN_STATES = 0.5
REFRESH_EVERY = 8
"""Steps between two refreshes of one batch of the pool."""


class Pool:
    """Teacher trajectories at the student's sigmas, and the embeddings they were drawn for.

    Attributes:
        states: (STUDENT_STEPS + 1, trajectories, z, t, h, w), in the heavy dtype.
        embeddings: (trajectories, TOKENS, width).
    """

    def __init__(self, machine: Machine, scale: Scale, teacher: tuple[Any, Any, Any], seed: int) -> None:
        self._machine, self._scale, self._rng = machine, scale, random.Random(seed)
        self._tokenizer, self._encoder, self._denoiser = teacher
        self._empty = embed(self._encoder, tokenize(self._tokenizer, [""]).to(machine.device).long())
        batch = min(scale.distil_batch, scale.trajectories)
        drawn = [self._draw(batch) for _ in range(scale.trajectories // batch)]
        self.states = torch.cat([states for states, _ in drawn], 1)
        self.embeddings = torch.cat([embeddings for _, embeddings in drawn])
        self._oldest, self._batch = 0, batch

    def refresh(self) -> None:
        """Replace the oldest batch of trajectories."""
        where = slice(self._oldest, self._oldest + self._batch)
        self.states[:, where], self.embeddings[where] = self._draw(self._batch)
        self._oldest = (self._oldest + self._batch) % self.states.shape[1]

    @torch.no_grad()
    def _draw(self, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        scenes, _ = scenes_and_parameters(batch, self._rng)
        tokens, _ = captions_of(scenes, self._rng, self._tokenizer, 1)
        scale, device = self._scale, self._machine.device
        shape = (batch, scale.vae["z_dim"], scale.latent_frames, scale.height // 8, scale.width // 8)
        with self._machine.autocast():
            embeddings = embed(self._encoder, tokens[:, 0].to(device).long())
            velocity = guided(self._denoiser, embeddings, self._empty, GUIDANCE)
            states = trajectory(velocity, torch.randn(shape, device=device), TEACHER_STEPS)
        return states[:: TEACHER_STEPS // STUDENT_STEPS].to(self._machine.dtype), embeddings.float()


def distil(
    machine: Machine, scale: Scale, state: Path, *, budget_s: float, max_steps: int | None = None
) -> None:
    """Distil `state/teacher` into `state/student`."""
    teacher = load_drawer(state / "teacher", machine)
    student = WanTransformer3DModel.from_pretrained(
        state / "teacher" / "transformer", torch_dtype=torch.float32
    ).to(machine.device)
    if machine.on_gpu:
        teacher[2].compile_repeated_blocks(fullgraph=True, dynamic=False)
        student.compile_repeated_blocks(fullgraph=True, dynamic=False)
    torch.manual_seed(200 + machine.rank)
    pool = Pool(machine, scale, teacher, seed=5000 + machine.rank)
    machine.say(f"distil: {pool.states.shape[1]} trajectories on each of {machine.processes}")
    learner, curve = (
        Learner(machine, [student], RATE, average_over=200),
        Curve("student: distance to the teacher's velocity"),
    )
    for step, fraction in machine.progress(budget_s, max_steps):
        loss = _loss(machine, student, pool, scale.distil_batch)
        torch.autograd.backward(loss)
        norm = learner.step(ramp(step, fraction, hold=0.4))
        if step % REFRESH_EVERY == REFRESH_EVERY - 1 and fraction < 0.85:
            pool.refresh()
        if step % 20 == 0 or max_steps:
            curve.add(step, loss.item())
        if step % 200 == 0:
            machine.say(f"distil {step} {fraction:.0%} loss {loss.item():.4f} norm {norm.item():.2f}")
    learner.use_average()
    if machine.is_first:
        student.half().save_pretrained(state / "student" / "transformer", max_shard_size="14MB")
        teacher[0].save_pretrained(state / "student" / "tokenizer")
        teacher[1].half().save_pretrained(state / "student" / "text_encoder")
        curve.save(state / "curves" / "distil.png")


def _loss(machine: Machine, student: Any, pool: Pool, batch: int) -> torch.Tensor:
    sigmas, timesteps = (torch.tensor(values, device=machine.device) for values in grid(STUDENT_STEPS))
    chosen = torch.randint(0, pool.states.shape[1], (batch,), device=machine.device)
    at = torch.randint(0, STUDENT_STEPS, (batch,), device=machine.device)
    states, embeddings = pool.states[:, chosen].float(), pool.embeddings[chosen]
    rows = torch.arange(batch, device=machine.device)
    begin = states[at, rows]
    if float(torch.rand(())) < OWN_STATES:
        with machine.autocast():
            begin = trajectory(guided(student, embeddings, embeddings[:1], 1), states[0], STUDENT_STEPS)[
                at, rows
            ]
    stride = (sigmas[at + 1] - sigmas[at]).view(-1, 1, 1, 1, 1)
    target = (states[at + 1, rows] - begin) / stride
    with machine.autocast():
        predicted = student(begin, timesteps[at].float(), embeddings, return_dict=False)[0].float()
    loss: torch.Tensor = (predicted - target).square().mean()
    return loss
