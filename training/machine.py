"""Where a stage runs: one process for each GPU, or one on a CPU; and what the processes share.

Started by `torchrun` a stage is data-parallel: each process renders other clips, gradients are averaged.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Machine:
    """One process of a run."""

    rank: int
    processes: int
    device: torch.device

    @classmethod
    def start(cls) -> Machine:
        """Join the run described by `torchrun`'s environment, or be the only process."""
        rank, processes = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        on_gpu = torch.cuda.is_available()
        device = (
            torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if on_gpu else torch.device("cpu")
        )
        if on_gpu:
            torch.cuda.set_device(device)
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
            torch.backends.cudnn.benchmark = True
        if processes > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if on_gpu else "gloo")
        torch.manual_seed(rank)
        return cls(rank, processes, device)

    @property
    def on_gpu(self) -> bool:
        """Whether this process has a GPU."""
        return self.device.type == "cuda"

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and logs."""
        return self.rank == 0

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of heavy arithmetic here."""
        return torch.bfloat16 if self.on_gpu else torch.float32

    def autocast(self) -> AbstractContextManager[None]:
        """Run heavy arithmetic in bfloat16 on a GPU."""
        context: AbstractContextManager[None] = torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.on_gpu
        )
        return context

    def log(self, text: str) -> None:
        """Print *text* once for the whole run."""
        if self.is_first:
            print(text, flush=True)

    def average_(self, tensors: Sequence[torch.Tensor]) -> None:
        """Average *tensors* over the processes, in place."""
        if self.processes == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.processes
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        means = [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]
        torch._foreach_copy_(list(tensors), means)

    def same_(self, tensors: Sequence[torch.Tensor]) -> None:
        """Give every process the first one's *tensors*."""
        if self.processes > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def alone(self) -> Machine:
        """Return this process as if it were the only one, for a stage that one process runs."""
        return replace(self, rank=0, processes=1)

    def wait(self) -> None:
        """Wait for the other processes, whose files the next stage may read."""
        if self.processes > 1:
            dist.barrier()

    def agreed(self, value: float) -> float:
        """Return the first process's *value*, in every process."""
        if self.processes == 1:
            return value
        held = torch.tensor([value], device=self.device)
        dist.broadcast(held, 0)
        return float(held)

    def progress(
        self, budget_s: float, max_steps: int | None, *, free_steps: int = 0
    ) -> Iterator[tuple[int, float]]:
        """Yield (step, fraction of the budget spent) until time or steps run out.

        Args:
            budget_s: Seconds.
            max_steps: Steps at most, for tests.
            free_steps: First steps whose time does not count: kernels compile in them.
        """
        begun, step, fraction = time.monotonic(), 0, 0.0
        while fraction < 1.0 and (max_steps is None or step < max_steps):
            if step == free_steps and step:
                begun = time.monotonic()
            yield step, fraction
            step += 1
            if step % 10 == 0 or step <= free_steps:
                spent = time.monotonic() - begun
                fraction = self.agreed(spent / budget_s) if step > free_steps else 0.0
