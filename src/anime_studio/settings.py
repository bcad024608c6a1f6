"""All configuration, in one frozen class, read once at the edge and then passed down.

Every field is an environment variable with the prefix `ANIME_STUDIO_`
(`ANIME_STUDIO_RECIPE=demo`). Importing this module reads nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from anime_studio import __version__
from anime_studio.core.decoders import Decoder
from anime_studio.core.embeddings import EmbeddingsBounds
from anime_studio.core.policy import Policy
from anime_studio.core.pricing import UNBILLED, Machine


@dataclass(frozen=True, slots=True)
class WebOptions:
    """How HTTP behaves in one deployment.

    Attributes:
        recipe: Name of the deployment's recipe; `GET /health` answers it without asking the studio.
        version: Version of the service.
        base_url: Public address for links; None means the address each request came to.
        generate_wait_s: Longest wait of `POST /generate`; Modal cuts HTTP at 150 s.
        heartbeat_s: Silence after which an event stream sends a comment, so that proxies keep it open.
        max_body_bytes: Largest request body; the longest legal prompt pair is 16 KB of UTF-8.
        round_seconds: Whether `/v1/videos` takes the nearest legal length for 4, 8 and 12 seconds.
        allowed_hosts: Names that `Host` may hold besides addresses and loopback names; None: any name.
        watch_words: Whether a watch page shows the prompt and who asked.
        operator_on_loopback: Whether callers of this machine need no operator's key, if there is none.
    """

    recipe: str
    version: str = __version__
    base_url: str | None = None
    generate_wait_s: float = 100.0
    heartbeat_s: float = 15.0
    max_body_bytes: int = 64 * 1024
    round_seconds: bool = False
    allowed_hosts: frozenset[str] | None = None
    watch_words: bool = True
    operator_on_loopback: bool = False


class Settings(BaseSettings):
    """What a deployment can choose; the laptop's defaults."""

    model_config = SettingsConfigDict(env_prefix="ANIME_STUDIO_", frozen=True, extra="ignore")

    # What is rendered
    recipe: str = "demo"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    accelerate: bool = True
    """Take the fast paths that suit the GPU; a CPU has none. Each is measured in docs/performance.md."""
    decoder: Decoder = Decoder.FULL
    """What makes frames of latents. `light` and `tiny` are faster and a little less exact; docs/performance.md."""
    upscaler: bool | None = None
    """Whether 1080p is offered, which needs an upscaler in the checkpoint. Absent: a laptop's server looks when it starts,
    and on Modal, where the web container has no weights, it is not offered."""
    text: Literal["cpu", "gpu"] = "cpu"
    """Where the text is encoded for a GPU that draws: `cpu`: on a CPU (on Modal, in a container of its own); `gpu`: on
    that GPU, whose memory then holds 11.4 GB more."""
    compose_prompts: bool = True
    models_dir: Path = Path(".anime-studio/models")

    # Where it is stored
    data_dir: Path = Path(".anime-studio")
    clip_ttl_s: Annotated[float, Field(gt=0, le=10 * 365 * 24 * 3600)] = 24 * 3600
    """How long a clip is kept; its watch link lives as long."""
    clips_max_bytes: Annotated[int, Field(gt=0)] = 2 * 1024**3
    job_ttl_s: Annotated[float, Field(gt=0)] = 7 * 24 * 3600
    embeddings_max_count: Annotated[int, Field(ge=0)] = EmbeddingsBounds.max_count
    """The most prompts whose embeddings are stored in `data_dir`; a repeated prompt is not encoded again."""
    embeddings_max_bytes: Annotated[int, Field(ge=0)] = EmbeddingsBounds.max_bytes
    embeddings_memory_max_count: Annotated[int, Field(ge=0)] = EmbeddingsBounds.memory_max_count
    """The same in memory: the GPU's with `text="gpu"`."""
    embeddings_memory_max_bytes: Annotated[int, Field(ge=0)] = EmbeddingsBounds.memory_max_bytes

    # How it is served
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8017
    base_url: str | None = None
    """Public address for links, when it differs from the one a request came to."""
    allowed_hosts: str = ""
    """Comma-separated names that callers may use for this server, as in a LAN; `*` allows every name. IP addresses,
    loopback names, `host` and the name in `base_url` are always allowed; a request to another name gets 421."""
    signing_keys: SecretStr | None = None
    """Comma-separated, oldest first. Absent on a laptop: one is made in `data_dir`, mode 0600."""
    operator_key: Annotated[SecretStr, Field(min_length=16)] | None = None
    """What the operator sends to `/operator`. Absent: only callers of this machine are let in, at a server on loopback."""
    url_ttl_s: Annotated[int, Field(ge=1, le=24 * 3600)] = 900
    generate_wait_s: Annotated[float, Field(ge=0, le=140)] = 100
    """Longest wait of `POST /generate`; Modal cuts HTTP at 150 s."""
    round_seconds: bool = False
    """Let `/v1/videos` take the nearest legal length for 4, 8 and 12 seconds, the only ones that OpenAI's types allow."""
    watch_words: bool = True
    """Show the prompt and who asked on a clip's watch page; else the page shows the clip alone."""
    max_queued_jobs: Annotated[int, Field(ge=1)] = 32
    max_attempts: Annotated[int, Field(ge=1)] = 3
    drain_s: Annotated[float, Field(ge=0)] = 10
    """How long a worker that is told to stop may go on with its job before it requeues it."""
    hang_after_s: Annotated[float, Field(gt=0, le=24 * 3600)] = 60
    """Least silence after which the worker counts as hung and is killed; see docs/deploy.md."""

    # What is logged
    log_prompts: bool = False
    log_format: Literal["auto", "json", "console"] = "auto"
    budget_usd_per_clip: Annotated[float, Field(gt=0)] | None = None
    budget_usd_per_day: Annotated[float, Field(gt=0)] | None = None
    """Receipts and known idling of one day, UTC: past it jobs are refused; docs/operating.md."""
    budget_usd_per_month: Annotated[float, Field(gt=0)] | None = None

    @property
    def machine(self) -> Machine:
        """What a job is billed for."""
        return UNBILLED

    def policy(self) -> Policy:
        """Return what the studio allows."""
        return Policy(
            max_queued_jobs=self.max_queued_jobs,
            url_ttl=timedelta(seconds=self.url_ttl_s),
            clip_ttl=timedelta(seconds=self.clip_ttl_s),
            decoder=self.decoder,
            compose_prompts=self.compose_prompts,
            machine=self.machine,
            budget_usd_per_clip=self.budget_usd_per_clip,
            budget_usd_per_day=self.budget_usd_per_day,
            budget_usd_per_month=self.budget_usd_per_month,
            operator_key=None if self.operator_key is None else self.operator_key.get_secret_value(),
        )

    def embeddings_bounds(self) -> EmbeddingsBounds:
        """Return how many embeddings of prompts are stored."""
        return EmbeddingsBounds(
            max_count=self.embeddings_max_count,
            max_bytes=self.embeddings_max_bytes,
            memory_max_count=self.embeddings_memory_max_count,
            memory_max_bytes=self.embeddings_memory_max_bytes,
        )

    def web_options(self) -> WebOptions:
        """Return how HTTP behaves."""
        return WebOptions(
            recipe=self.recipe,
            base_url=self.base_url,
            generate_wait_s=self.generate_wait_s,
            round_seconds=self.round_seconds,
            allowed_hosts=self._host_names(),
            watch_words=self.watch_words,
            operator_on_loopback=self.host in ("127.0.0.1", "::1", "localhost"),
        )

    def _host_names(self) -> frozenset[str]:
        base_name = urlsplit(self.base_url or "").hostname or ""
        names = (self.host, base_name, *self.allowed_hosts.split(","))
        return frozenset(name.strip().lower() for name in names) - {""}


def wrong_values(error: ValidationError) -> str:
    """Return what is wrong with the settings, for people: each value with the variable that sets it."""
    return "; ".join(
        f"{item['loc'][0]} (ANIME_STUDIO_{str(item['loc'][0]).upper()}): {item['msg']}"
        if item["loc"]
        else str(item["msg"]).removeprefix("Value error, ")
        for item in error.errors()
    )
