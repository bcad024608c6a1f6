"""All configuration, in one frozen class, read once at the edge and then passed down.

Every field is an environment variable with the prefix `ANIME_STUDIO_`
(`ANIME_STUDIO_RECIPE=demo`). Importing this module reads nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """What a deployment can choose; the laptop's defaults."""

    model_config = SettingsConfigDict(env_prefix="ANIME_STUDIO_", frozen=True, extra="ignore")

    # What is drawn
    recipe: str = "demo"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    accelerate: bool = True
    """Take the fast paths that suit the GPU; a CPU has none. Each is measured in docs/performance.md."""
    compose_prompts: bool = True
    models_dir: Path = Path(".anime-studio/models")

    # Where it is kept
    data_dir: Path = Path(".anime-studio")
    clip_ttl_s: Annotated[float, Field(gt=0)] = 24 * 3600
    clips_max_bytes: Annotated[int, Field(gt=0)] = 2 * 1024**3
    job_ttl_s: Annotated[float, Field(gt=0)] = 7 * 24 * 3600

    # How it is served
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8017
    base_url: str | None = None
    """Public address for links, when it differs from the one a request came to."""
    signing_keys: SecretStr | None = None
    """Comma-separated, oldest first. Absent on a laptop: one is made in `data_dir`, mode 0600."""
    url_ttl_s: Annotated[int, Field(ge=1, le=24 * 3600)] = 900
    generate_wait_s: Annotated[float, Field(ge=0, le=140)] = 100
    """Longest wait of `POST /generate`; Modal cuts HTTP at 150 s."""
    max_queued_jobs: Annotated[int, Field(ge=1)] = 32
    max_attempts: Annotated[int, Field(ge=1)] = 3
    drain_s: Annotated[float, Field(ge=0)] = 10
    """How long a stopping worker goes on with its job before it hands it back."""

    # What is told
    log_prompts: bool = False
    log_format: Literal["auto", "json", "console"] = "auto"
    budget_usd_per_clip: Annotated[float, Field(gt=0)] | None = None
