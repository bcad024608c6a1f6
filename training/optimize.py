"""One optimiser step for everything: Muon for matrices and filters, AdamW for the rest, and a moving average.

Muon: K. Jordan et al., 2024, "Muon: an optimizer for hidden layers in neural networks" (five Newton-Schulz steps
with coefficients 3.4445, -4.7750, 2.0315), with the update scaled to AdamW's size as in "Muon is scalable for LLM
training" (Liu et al., 2025: 0.2 sqrt(max(rows, columns))).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from training.machine import Machine

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5


class Muon:
    """Momentum, orthogonalised; parameters of one shape are updated together."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter], momentum: float = 0.95) -> None:
        groups: dict[tuple[int, int], list[torch.nn.Parameter]] = {}
        for parameter in parameters:
            groups.setdefault((parameter.shape[0], parameter[0].numel()), []).append(parameter)
        self._groups = list(groups.values())
        self._momenta = [
            torch.zeros(len(group), *shape, device=group[0].device) for shape, group in groups.items()
        ]
        self._momentum = momentum

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Take one step of size *rate*."""
        for group, momentum in zip(self._groups, self._momenta, strict=True):
            gradient = torch.stack(
                [_gradient(parameter).reshape(len(parameter), -1) for parameter in group]
            ).float()
            momentum.lerp_(gradient, 1 - self._momentum)
            update = _orthogonal(gradient.lerp(momentum, self._momentum))
            update *= 0.2 * max(update.shape[1:]) ** 0.5
            torch._foreach_add_(
                list[torch.Tensor](group),
                [u.reshape(p.shape) for u, p in zip(update.unbind(0), group, strict=True)],
                alpha=-rate,
            )


def _orthogonal(update: torch.Tensor) -> torch.Tensor:
    matrix = update.bfloat16() if update.is_cuda else update
    tall = matrix.shape[1] > matrix.shape[2]
    matrix = matrix.mT if tall else matrix
    matrix = matrix / (matrix.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = NEWTON_SCHULZ
    for _ in range(NEWTON_SCHULZ_STEPS):
        square = matrix @ matrix.mT
        matrix = a * matrix + (b * square + c * square @ square) @ matrix
    whole: torch.Tensor = matrix.mT if tall else matrix
    return whole.float()


def _gradient(parameter: torch.nn.Parameter) -> torch.Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


class Learner:
    """Trains some modules: averages gradients over processes, clips them, steps, and updates a moving average.

    Args:
        machine: The run.
        modules: What is trained; the moving average starts at their weights.
        rate: Peak learning rate of both optimisers.
        clip: Largest norm of the gradient.
        average_over: Steps over which weights are averaged, about.
    """

    def __init__(
        self,
        machine: Machine,
        modules: Sequence[torch.nn.Module],
        rate: float,
        *,
        clip: float = 1.0,
        average_over: int = 700,
    ) -> None:
        self._machine, self._rate, self._clip, self._average_over = machine, rate, clip, average_over
        named = [pair for module in modules for pair in module.named_parameters()]
        self.parameters = [parameter for _, parameter in named]
        machine.same_([parameter.data for parameter in self.parameters])
        matrices = [parameter for name, parameter in named if _is_hidden_matrix(name, parameter)]
        chosen = {id(parameter) for parameter in matrices}
        self._muon = Muon(matrices)
        self._adamw = torch.optim.AdamW(
            [parameter for parameter in self.parameters if id(parameter) not in chosen],
            lr=rate, betas=(0.9, 0.98), weight_decay=0.0, fused=machine.on_gpu,
        )  # fmt: skip
        self._average = [parameter.detach().clone() for parameter in self.parameters]
        self._steps = 0

    def step(self, rate_factor: float) -> torch.Tensor:
        """Use the gradients for one step of the peak rate times *rate_factor*; return their norm."""
        self._machine.average_(
            [_gradient(parameter) for parameter in self.parameters if parameter.grad is not None]
        )
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self._clip)
        self._adamw.param_groups[0]["lr"] = self._rate * rate_factor
        self._adamw.step()
        self._muon.step(self._rate * rate_factor)
        self._adamw.zero_grad(set_to_none=True)
        for parameter in self.parameters:
            parameter.grad = None
        self._steps += 1
        weight = max(1 / self._average_over, 1 / (self._steps + 1))
        torch._foreach_lerp_(self._average, [parameter.detach() for parameter in self.parameters], weight)
        return norm

    @torch.no_grad()
    def use_average(self) -> None:
        """Put the moving average into the modules, the same in every process."""
        for parameter, average in zip(self.parameters, self._average, strict=True):
            parameter.copy_(average)
        self._machine.same_([parameter.data for parameter in self.parameters])


def _is_hidden_matrix(name: str, parameter: torch.nn.Parameter) -> bool:
    if (
        parameter.ndim < 2
        or parameter.shape[0] < 8
        or parameter[0].numel() < 32
        or not name.endswith("weight")
    ):
        return False
    edges = (
        "conv_in",
        "conv_out",
        "patch_embedding",
        "proj_out",
        "condition_embedder",
        "shared",
        "embed_tokens",
        "relative",
        "heads",
    )
    return not any(edge in name for edge in edges)


def ramp(step: int, fraction: float, *, warm_up: int = 100, hold: float = 0.5, last: float = 0.02) -> float:
    """Return the rate's factor: up over *warm_up* steps, level until *hold* of the budget, down to *last*."""
    decay = 1.0 if fraction < hold else max(last, 1 - (fraction - hold) / (1 - hold))
    return min(1.0, (step + 1) / warm_up) * decay
