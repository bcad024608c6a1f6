"""Seconds times published rates: a receipt for each clip.

On Modal, GPU, CPU cores and memory bill by the second from container start to its end,
so a receipt counts the seconds of the job itself; the idle tail is shown apart by
`anime-studio cost`, never hidden in a clip.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from types import MappingProxyType

from anime_studio.core.errors import ConfigurationError
from common.schemas import Cost, Timings


@dataclass(frozen=True, slots=True)
class RateTable:
    """US dollars per second, as published on one day."""

    as_of: date
    source: str
    gpu_usd_per_s: Mapping[str, float]
    cpu_core_usd_per_s: float
    memory_gib_usd_per_s: float


MODAL_RATES = RateTable(
    as_of=date(2026, 7, 18),
    source=(
        "Modal's published per-second prices as read by third parties (L4, A10, L40S, CPU, memory: 2026-07-18; the "
        "other GPUs: 2026-07-01); check with `modal billing rates`"
    ),
    gpu_usd_per_s=MappingProxyType(
        {
            "none": 0.0,  # a CPU container: cores and memory alone
            "T4": 0.000164,
            "L4": 0.000222,
            "A10": 0.000306,
            "L40S": 0.000542,
            "A100-40GB": 0.000583,
            "A100-80GB": 0.000694,
            "RTX-PRO-6000": 0.000842,
            "H100": 0.001097,
            "H200": 0.001261,
            "B200": 0.001736,
        }
    ),
    cpu_core_usd_per_s=0.0000131,
    memory_gib_usd_per_s=0.00000222,
)


@dataclass(frozen=True, slots=True)
class Machine:
    """What a worker runs on; `gpu` None is a machine nobody bills for."""

    gpu: str | None = None
    cpu_cores: float = 0.0
    memory_gib: float = 0.0

    @property
    def gpu_type(self) -> str:
        """The GPU's type: `H100` for `H100:1` (one of them) and for `H100!` (no other in its place)."""
        return (self.gpu or "").split(":")[0].rstrip("!")

    def usd_per_s(self, rates: RateTable = MODAL_RATES) -> float:
        """Return what one second costs.

        Raises:
            ConfigurationError: The rate table has no price for the GPU.
        """
        if self.gpu is None:
            return 0.0
        if self.gpu_type not in rates.gpu_usd_per_s:
            known = ", ".join(rates.gpu_usd_per_s)
            raise ConfigurationError(f"no price is known for GPU {self.gpu!r}; priced: {known}")
        return (
            rates.gpu_usd_per_s[self.gpu_type]
            + self.cpu_cores * rates.cpu_core_usd_per_s
            + self.memory_gib * rates.memory_gib_usd_per_s
        )


UNBILLED = Machine()
"""A machine of the user's own."""


def billed_seconds(timings: Timings) -> float:
    """Return the seconds a worker was held: start, text, denoise, decode, upscale, store. Waiting costs nothing."""
    before = (timings.start_s, timings.text_s, timings.denoise_s, timings.decode_s)
    stages = (*before, timings.upscale_s, timings.store_s)
    return sum(seconds for seconds in stages if seconds is not None)


def receipt(timings: Timings, machine: Machine, rates: RateTable = MODAL_RATES) -> Cost:
    """Return what a job cost.

    Args:
        timings: Measured seconds by stage.
        machine: What it ran on.
        rates: Dated price list.
    """
    seconds = billed_seconds(timings)
    if machine.gpu is None:
        return Cost(usd=0.0, basis=f"{seconds:.2f} s on this machine, which nobody bills for")
    usd = seconds * machine.usd_per_s(rates)
    return Cost(
        usd=round(usd, 6),
        basis=(
            f"{seconds:.2f} s x ({machine.gpu} + {machine.cpu_cores:g} cores + {machine.memory_gib:g} GiB = "
            f"${machine.usd_per_s(rates):.6f}/s); rates of {rates.as_of:%Y-%m-%d}"
        ),
    )
