"""What a deployment on Modal can choose, read from the deploying shell and carried into its containers.

`modal deploy` reads the environment once; `as_environment` is baked into both images as their last layer,
so a container that imports the same module reads back exactly the deployed values. Secrets are not among
them: signing keys come from the Modal Secret, when they are needed. Names that the platform keeps things
under are constants, because other tools (and people) look for them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from anime_studio.core.pricing import Machine
from anime_studio.settings import Settings

APP_NAME: Final = "anime-studio"
MODELS_VOLUME: Final = "anime-models"
OUTPUTS_VOLUME: Final = "anime-outputs"
SECRET_NAME: Final = "anime-studio"  # noqa: S105  a name, not a secret
SIGNING_KEYS_VARIABLE: Final = "ANIME_STUDIO_SIGNING_KEYS"
JOBS_DICT: Final = "anime-studio-jobs"
ENDED_DICT: Final = "anime-studio-ended"
IDEMPOTENCY_DICT: Final = "anime-studio-idempotency"

MODELS_MOUNT: Final = Path("/models")
OUTPUTS_MOUNT: Final = Path("/outputs")
SCRATCH: Final = Path("/tmp/anime-studio")  # noqa: S108  the container's own disk, gone with it
SETUP_COMMAND: Final = "modal run -m anime_studio.modal_app::setup"

_OF_THE_CONTAINER: Final = frozenset({"models_dir", "data_dir", "signing_keys", "host", "port"})


class ModalSettings(Settings):
    """The laptop's settings, with defaults for a GPU that bills by the second, and what Modal needs.

    Prices are `core.pricing.MODAL_RATES`: an L4 with 2 cores and 12 GiB costs $0.000275/s, so a minute
    costs $0.0165, about as much as a clip may. `none` in a variable means None.
    """

    model_config = SettingsConfigDict(env_parse_none_str="none")

    recipe: str = "fastwan-3step"

    gpu: str | None = "L4"
    """None draws on a CPU: for the demo checkpoint, and for a first deploy that costs almost nothing."""
    snapshot: Literal["gpu", "cpu", "off"] = "gpu"
    """`gpu`: the loaded model is in the snapshot; `cpu`: imports only; `off`: none."""
    cpu_cores: Annotated[float, Field(gt=0)] = 2.0
    """One for Python and copies, one for H.264 beside the VAE."""
    memory_gib: Annotated[float, Field(gt=0)] = 12.0
    """Billed as the larger of this and what is used: 10.4 GiB at the peak of a start, on an H200's machine."""

    max_containers: Annotated[int, Field(ge=1)] = 2
    """The budget's cap: two L4 around the clock cost about $2 an hour."""
    min_containers: Annotated[int, Field(ge=0)] = 0
    """One kept warm costs about $1 an hour."""
    buffer_containers: Annotated[int, Field(ge=0)] = 0
    scaledown_window_s: Annotated[int, Field(ge=2, le=1200)] = 20
    """Idle seconds are billed like busy ones. Waiting about as long as a wake-up costs is never worse than
    twice the best choice (the ski-rental argument), and a restored container wakes in seconds."""
    timeout_s: Annotated[int, Field(ge=10, le=24 * 3600)] = 1200
    """Of one attempt; 50 steps on an L4 are projected at about ten minutes."""
    startup_timeout_s: Annotated[int, Field(ge=10, le=24 * 3600)] = 900
    """Reading 13.6 GiB at the 200 MB/s of a slow day takes 73 s; a first snapshot comes on top."""

    web_min_containers: Annotated[int, Field(ge=0)] = 0
    """One kept warm costs about $5 a month."""
    web_max_containers: Annotated[int, Field(ge=1)] = 4
    web_scaledown_window_s: Annotated[int, Field(ge=2, le=1200)] = 300
    web_timeout_s: Annotated[int, Field(ge=150, le=24 * 3600)] = 3600
    """Each request is one input, event streams too: this ends the longest stream."""
    web_max_inputs: Annotated[int, Field(ge=1, le=1000)] = 100
    clip_cache_bytes: Annotated[int, Field(gt=0)] = 1024**3
    """Clips kept on a web container's disk, so that ranges are served without the network."""
    custom_domain: str | None = None
    release: str = "1"
    """Change it to make Modal build fresh snapshots, after `setup` fetched weights for a deployed app, say."""

    @classmethod
    def read(cls) -> Self:
        """Read the environment: the deploying shell's, or in a container what the deploy baked in."""
        return cls(models_dir=MODELS_MOUNT, data_dir=SCRATCH)

    def as_environment(self) -> dict[str, str]:
        """Return the variables that make `read` give these settings again, less the signing keys."""
        values = self.model_dump(mode="json", exclude=set(_OF_THE_CONTAINER))
        return {
            f"ANIME_STUDIO_{name.upper()}": "none" if value is None else str(value)
            for name, value in values.items()
        }

    @property
    def machine(self) -> Machine:
        """What one GPU container bills."""
        return Machine(gpu=self.gpu or "none", cpu_cores=self.cpu_cores, memory_gib=self.memory_gib)

    @property
    def tags(self) -> dict[str, str]:
        """Tags of the app, by which Modal's billing groups."""
        return {"project": APP_NAME, "recipe": self.recipe, "gpu": self.gpu or "none"}
