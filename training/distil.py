"""Stage `distil`: a student that takes six steps without guidance where the teacher takes eighteen with it.

Three guided teacher steps become one, as in progressive distillation (Salimans & Ho, 2022) with guidance folded in
(Meng et al., 2023). Only the served steps are trained. Most training states are those that the student's own steps lead
to, not the teacher's, and the teacher goes on from there (DAgger; Ross et al., 2011). So the student learns to correct
its own errors, and never to jump to a path that it is not on.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

from training.checkpoint import load_generator
from training.clips import scenes_and_parameters
from training.config import GUIDANCE, STUDENT_STEPS, TEACHER_STEPS, Scale
from training.machine import Machine
from training.optimize import Learner, ramp
from training.report import Curve
from training.sampling import euler, grid, guided
from training.text import captions_of, embed, tokenize

RATE = 6e-4
OWN_PATHS = 0.7
"""Share of paths, after the first pool, that follow the student."""
REFRESH_EVERY = 24
"""Steps between two refreshes of one batch of the pool: each state is used three or four times."""


class Pool:
    """Training states at the student's sigmas, and the teacher's states at the next sigma.

    Attributes:
        begins, ends: float32 (STUDENT_STEPS, paths, z, t, h, w).
        embeddings: (paths, TOKENS, width).
    """

    def __init__(
        self, machine: Machine, scale: Scale, teacher: tuple[Any, Any, Any], student: Any, seed: int
    ) -> None:
        self._machine, self._scale, self._student, self._rng = machine, scale, student, random.Random(seed)
        self._tokenizer, self._encoder, self._denoiser = teacher
        self._empty = embed(self._encoder, tokenize(self._tokenizer, [""]).to(machine.device).long())
        self._batch = min(scale.distil_batch, scale.paths)
        walks = [self._walk(own=0.0) for _ in range(scale.paths // self._batch)]
        self.begins = torch.cat([begins for begins, _, _ in walks], 1)
        self.ends = torch.cat([ends for _, ends, _ in walks], 1)
        self.embeddings = torch.cat([embeddings for _, _, embeddings in walks])
        self._oldest = 0

    def refresh(self) -> None:
        """Replace the oldest batch of paths."""
        where = slice(self._oldest, self._oldest + self._batch)
        self.begins[:, where], self.ends[:, where], self.embeddings[where] = self._walk(own=OWN_PATHS)
        self._oldest = (self._oldest + self._batch) % self.begins.shape[1]

    @torch.no_grad()
    def _walk(self, own: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Walk from noise to clip, a share *own* of the paths by the student's steps."""
        scale, device, batch = self._scale, self._machine.device, self._batch
        scenes, _ = scenes_and_parameters(batch, self._rng)
        tokens = captions_of(scenes, self._rng, self._tokenizer, 1)[0][:, 0].to(device).long()
        shape = (batch, scale.vae["z_dim"], scale.latent_frames, scale.height // 8, scale.width // 8)
        fine, coarse, ratio = grid(TEACHER_STEPS), grid(STUDENT_STEPS), TEACHER_STEPS // STUDENT_STEPS
        state, follows = torch.randn(shape, device=device), torch.rand(batch, 1, 1, 1, 1, device=device) < own
        begins, ends = [], []
        with self._machine.autocast():
            embeddings = embed(self._encoder, tokens)
            teacher = guided(self._denoiser, embeddings, self._empty, GUIDANCE)
            student = guided(self._student, embeddings, self._empty, 1)
            for i in range(STUDENT_STEPS):
                end = euler(teacher, state, fine, range(ratio * i, ratio * (i + 1)))
                begins.append(state)
                ends.append(end)
                state = (
                    torch.where(follows, euler(student, state, coarse, range(i, i + 1)), end) if own else end
                )
        return torch.stack(begins), torch.stack(ends), embeddings.float()


def distil(
    machine: Machine, scale: Scale, state: Path, *, budget_s: float, max_steps: int | None = None
) -> None:
    """Distil `state/teacher` into `state/student`."""
    teacher = load_generator(state / "teacher", machine)
    student = WanTransformer3DModel.from_pretrained(
        state / "teacher" / "transformer", torch_dtype=torch.float32
    ).to(machine.device)
    if machine.on_gpu:
        teacher[2].compile_repeated_blocks(fullgraph=True, dynamic=False)
        student.compile_repeated_blocks(fullgraph=True, dynamic=False)
    torch.manual_seed(200 + machine.rank)
    pool = Pool(machine, scale, teacher, student, seed=5000 + machine.rank)
    machine.log(f"distil: {pool.begins.shape[1]} paths on each of {machine.processes}")
    learner = Learner(machine, [student], RATE, average_over=200)
    curve = Curve("student: distance to the teacher's velocity")
    for step, fraction in machine.progress(budget_s, max_steps):
        loss = _loss(machine, student, pool, scale.distil_batch)
        torch.autograd.backward(loss)
        norm = learner.step(ramp(step, fraction, hold=0.3))
        if (step % REFRESH_EVERY == REFRESH_EVERY - 1 and fraction < 0.9) or max_steps:
            pool.refresh()
        if step % 20 == 0 or max_steps:
            curve.add(step, loss.item())
        if step % 100 == 0:
            machine.log(f"distil {step} {fraction:.0%} loss {loss.item():.4f} norm {norm.item():.2f}")
    learner.use_average()
    if machine.is_first:
        student.half().save_pretrained(state / "student" / "transformer", max_shard_size="14MB")
        teacher[0].save_pretrained(state / "student" / "tokenizer")
        teacher[1].half().save_pretrained(state / "student" / "text_encoder")
        curve.save(state / "curves" / "distil.png")


def _loss(machine: Machine, student: Any, pool: Pool, batch: int) -> torch.Tensor:
    sigmas, timesteps = (torch.tensor(values, device=machine.device) for values in grid(STUDENT_STEPS))
    chosen = torch.randint(0, pool.begins.shape[1], (batch,), device=machine.device)
    at = torch.randint(0, STUDENT_STEPS, (batch,), device=machine.device)
    begin, end = pool.begins[at, chosen], pool.ends[at, chosen]
    stride = (sigmas[at + 1] - sigmas[at]).view(-1, 1, 1, 1, 1)
    with machine.autocast():
        embeddings = pool.embeddings[chosen]
        predicted = student(begin, timesteps[at].float(), embeddings, return_dict=False)[0].float()
    loss: torch.Tensor = (predicted - (end - begin) / stride).square().mean()
    return loss
