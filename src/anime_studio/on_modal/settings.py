"""What a deployment on Modal can choose, read from the deploying shell and passed on to its containers.

`modal deploy` reads the environment once and puts `as_environment` into both images as their last layer of
variables. A container imports the same module and reads the deployed values from them. Signing keys are not among the
values: they come from the Modal Secret. The names of Volumes, Dicts and the Secret are constants, because other tools
and people look for them.
"""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import SettingsConfigDict

from anime_studio.core.errors import ConfigurationError
from anime_studio.core.policy import Policy
from anime_studio.core.pricing import Machine
from anime_studio.core.projection import CARDS
from anime_studio.core.recipes import Recipe, get_recipe, require_decoder
from anime_studio.settings import Settings, WebOptions, wrong_values

APP_NAME: Final = "anime-studio"
MODELS_VOLUME: Final = "anime-models"
OUTPUTS_VOLUME: Final = "anime-outputs"
SECRET_NAME: Final = "anime-studio"  # noqa: S105  a name, not a secret
SIGNING_KEYS_VARIABLE: Final = "ANIME_STUDIO_SIGNING_KEYS"
JOBS_DICT: Final = "anime-studio-jobs"
ENDED_DICT: Final = "anime-studio-ended"
IDEMPOTENCY_DICT: Final = "anime-studio-idempotency"
SHOW_DICT: Final = "anime-studio-show"

MODELS_MOUNT: Final = Path("/models")
OUTPUTS_MOUNT: Final = Path("/outputs")
SCRATCH: Final = Path("/tmp/anime-studio")  # noqa: S108  the container's own disk, gone with it
KERNELS_INSIDE: Final = SCRATCH.with_name("anime-studio-kernels")
"""Where a GPU container's compilers write; each container begins without it."""
SETUP_COMMAND: Final = "modal run -m anime_studio.modal_app::setup"
USE_COMMAND: Final = "modal run -m anime_studio.modal_app::use"

TEXT_CPU_CORES: Final = (2.0, 4.0)
"""What a text container asks for, and the limit. A prompt takes a second of all four, and idling bills two."""
_TEXT_MEMORY_GIB: Final = 12.0
"""Measured: 12.0 GB, which are 11.2 GiB (`benchmarks/results/cold_start_h100.json`, "text"). In bfloat16 the layers take
9.26 GB and the embedding table 2.10 GB; the rest is Python and torch."""
_MEMORY_GIB: Final = 6.0
"""Measured without the text encoder: 3.8 GB at the peak of a start (`cold_start_h100.json`)."""
_MEMORY_WITH_TEXT_GIB: Final = (15.0, 18.0)
"""Projected, the least and what is advised: those 3.8 GB and the encoder's 11.4 GB, which wait in host memory while the
engine sleeps, are 14.1 GiB; a load of a source checkpoint that is not prepared needs some more."""
_DEMO_MEMORY_GIB: Final = 2.0
"""Measured on a CPU: 0.66 GiB at the peak of a clip of the demo checkpoint, text included."""

_OF_THE_CONTAINER: Final = frozenset(
    {"models_dir", "data_dir", "signing_keys", "operator_key", "host", "port"}
)


class ModalSettings(Settings):
    """The laptop's settings, with defaults for a GPU that is billed by the second, and what Modal needs.

    Prices are `core.pricing.MODAL_RATES`: an L4 with 2 cores and 6 GiB costs $0.000262/s, so a minute
    costs $0.0157. `none` in a variable means None.
    """

    model_config = SettingsConfigDict(env_parse_none_str="none")

    recipe: str = "fastwan-3step"

    gpu: str | None = "L4"
    """None: containers render on a CPU. That suits the demo checkpoint, and a first deploy that costs almost nothing."""
    snapshot: Literal["gpu", "cpu", "off"] = "gpu"
    """`gpu`: the snapshot holds the loaded model; `cpu`: it holds imported modules and prepared weights, which go to the
    GPU after the restore; `off`: there is no snapshot."""
    text_min_containers: Annotated[int, Field(ge=0)] = 0
    """One text container that always runs costs about $0.19 an hour. It saves a lone clip the start of one."""
    cpu_cores: Annotated[float, Field(gt=0)] = 2.0
    """One for Python and copies, one for the H.264 encoder, which runs while the VAE decodes. Also the limit: Modal lets
    a container use up to 16 cores more than it asked for, and bills them (guide, "CPU, memory, and disk")."""
    memory_gib: Annotated[float, Field(gt=0)] = Field(
        default_factory=lambda known: _DEMO_MEMORY_GIB if known.get("gpu") is None else _MEMORY_GIB
    )
    """Modal bills the larger of this and the memory used. Absent: 6, or 2 without a GPU. With `text="gpu"` the container
    holds 11.4 GB more in host memory while it sleeps: set 18."""

    max_containers: Annotated[int, Field(ge=1)] = 2
    """The cap on spending: two L4 around the clock cost about $2 an hour."""
    min_containers: Annotated[int, Field(ge=0)] = 0
    """One container that always runs costs about $1 an hour."""
    buffer_containers: Annotated[int, Field(ge=0)] = 0
    """Idle containers that Modal adds while others work, so that a burst meets no cold start; each is billed."""
    scaledown_window_s: Annotated[int, Field(ge=2, le=1200)] = 20
    """Idle seconds are billed like busy ones. A container that waits about as long as a cold start takes never costs
    more than twice the best choice (the ski-rental argument), and a restored container is ready in seconds."""
    timeout_s: Annotated[int, Field(ge=10, le=24 * 3600)] = 1200
    """Of one attempt at a job; 50 steps on an L4 are projected at seven minutes."""
    startup_timeout_s: Annotated[int, Field(ge=10, le=24 * 3600)] = 900
    """Of one container's start: reading 13.6 GiB at 200 MB/s, a slow day, takes 73 s, and a first snapshot follows."""

    custom_domain: str | None = None
    release: str = "1"
    """Any new value makes Modal take new snapshots, for example after `setup` has fetched weights for a deployed app."""

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        """Refuse what would deploy and then fail each job, or bill for what no job uses."""
        if problem := self._problem():
            raise ValueError(problem)
        return self

    def _problem(self) -> str | None:
        try:
            recipe = get_recipe(self.recipe)
            require_decoder(recipe, self.decoder)
            self.machine.usd_per_s()
        except ConfigurationError as error:
            return error.detail
        if self.gpu is not None and not re.fullmatch(r"[A-Z0-9-]+(!|:1)?", self.gpu):
            return (
                f"ANIME_STUDIO_GPU={self.gpu}: a clip is rendered on one GPU; write for example L4 or H100!"
            )
        if self.gpu is None and self.device == "cuda":
            return "ANIME_STUDIO_DEVICE=cuda needs a GPU, and ANIME_STUDIO_GPU is none; change one of them"
        if self.gpu is not None and self.device == "cpu":
            return f"ANIME_STUDIO_DEVICE=cpu leaves the {self.gpu} idle and billed; set ANIME_STUDIO_GPU=none"
        if self.gpu is None and recipe.repo_id is not None:
            return f"recipe {recipe.name} needs a GPU; set ANIME_STUDIO_GPU=L4, or ANIME_STUDIO_RECIPE=demo"
        if self.machine.gpu_type == "T4" and recipe.repo_id is not None:
            return f"recipe {recipe.name} needs bfloat16 and more than the 16 GB of a T4; set ANIME_STUDIO_GPU=L4"
        if self.budget_usd_per_clip and recipe.repo_id is not None and self.machine.gpu_type not in CARDS:
            return (
                f"ANIME_STUDIO_BUDGET_USD_PER_CLIP needs a projection, and there is none for {self.gpu}; "
                f"projected: {', '.join(CARDS)}"
            )
        least, advised = _MEMORY_WITH_TEXT_GIB
        if self.text == "gpu" and recipe.repo_id is not None and self.memory_gib < least:
            return (
                f"ANIME_STUDIO_MEMORY_GIB={self.memory_gib:g} cannot hold the text encoder: with ANIME_STUDIO_TEXT=gpu "
                f"a container needs {least:g} GiB at least (projected); set ANIME_STUDIO_MEMORY_GIB={advised:g}, or "
                "ANIME_STUDIO_TEXT=cpu"
            )
        if self.min_containers > self.max_containers:
            return (
                f"ANIME_STUDIO_MIN_CONTAINERS={self.min_containers} is more than "
                f"ANIME_STUDIO_MAX_CONTAINERS={self.max_containers}; raise the second or lower the first"
            )
        return None

    @classmethod
    def read(cls) -> Self:
        """Read the environment: of the deploying shell, or in a container the variables that the deploy put in the image.

        Raises:
            ConfigurationError: A value is wrong, or two contradict each other; the deploy stops with its words.
        """
        try:
            return cls(models_dir=MODELS_MOUNT, data_dir=SCRATCH)
        except ValidationError as error:
            raise ConfigurationError(wrong_values(error)) from None

    def as_environment(self) -> dict[str, str]:
        """Return the variables from which `read` makes these settings again; no key is among them."""
        values = self.model_dump(mode="json", exclude=set(_OF_THE_CONTAINER))
        return {
            f"ANIME_STUDIO_{name.upper()}": "none" if value is None else str(value)
            for name, value in values.items()
        }

    def policy(self) -> Policy:
        """Return what the studio allows, with what idling costs here."""
        return dataclasses.replace(
            super().policy(),
            scaledown_window_s=float(self.scaledown_window_s) if self.min_containers == 0 else math.inf,
            text_usd_per_s=self.text_machine.usd_per_s() if self.text == "cpu" else 0.0,
        )

    def web_options(self) -> WebOptions:
        """Return how HTTP behaves: Modal routes by host, and which `Host` a container sees is not documented."""
        return dataclasses.replace(super().web_options(), allowed_hosts=None, operator_on_loopback=False)

    @property
    def offered(self) -> Recipe:
        """The recipe with the sizes that this deployment offers."""
        recipe = get_recipe(self.recipe)
        return recipe.with_upscaler() if self.upscaler else recipe

    @property
    def uses_gpu(self) -> bool:
        """Whether containers render on a GPU."""
        return self.gpu is not None and self.device != "cpu"

    @property
    def machine(self) -> Machine:
        """What Modal bills for one GPU container."""
        return Machine(gpu=self.gpu or "none", cpu_cores=self.cpu_cores, memory_gib=self.memory_gib)

    @property
    def text_machine(self) -> Machine:
        """What Modal bills for one text container, at least: it may use more cores while it encodes."""
        memory_gib = _DEMO_MEMORY_GIB if get_recipe(self.recipe).repo_id is None else _TEXT_MEMORY_GIB
        return Machine(gpu="none", cpu_cores=TEXT_CPU_CORES[0], memory_gib=memory_gib)

    @property
    def tags(self) -> dict[str, str]:
        """Tags of the app, by which Modal's billing groups."""
        return {"project": APP_NAME, "recipe": self.recipe, "gpu": self.gpu or "none"}
