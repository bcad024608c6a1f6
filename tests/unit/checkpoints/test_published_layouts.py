"""Each published layout is fetched through the hub's client, checked, loaded as published, and draws frames."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import av
import pytest
import torch
from safetensors.torch import load, save

from anime_studio.checkpoints import store
from anime_studio.checkpoints.hub import ModelHub
from anime_studio.checkpoints.manifest import Manifest
from anime_studio.core.errors import CheckpointError
from anime_studio.core.recipes import (
    FASTWAN_3STEP,
    FASTWAN_3STEP_UNIPC,
    WAN_50STEP,
    Recipe,
)
from anime_studio.engine.loading.components import load_components
from anime_studio.engine.startup import start_engine
from common.schemas import Resolution
from support.engine import Reports, spec_of
from support.model_hub import FakeHub, Repository
from support.published_layouts import BESIDE, Files, fastwan21, qad_fp8, wan21

COMMIT = "75640eb" + "0" * 33
TINY_SIZES = {Resolution.P480: (48, 32)}
GATES = "transformer/diffusion_pytorch_model.safetensors"


def tiny(recipe: Recipe) -> Recipe:
    """Return *recipe* at a size that a CPU draws; all else is as it is served."""
    return replace(recipe, native_sizes=TINY_SIZES, min_frames=5)


QAD = tiny(FASTWAN_3STEP)
QAD_UNIPC = tiny(FASTWAN_3STEP_UNIPC)
WAN = tiny(WAN_50STEP)
FASTWAN21 = replace(
    tiny(FASTWAN_3STEP),
    name="fastwan21",
    repo_id="FastVideo/FastWan2.1-T2V-1.3B-Diffusers",
    revision=COMMIT,
)
Layout = Callable[[Path], Files]


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        yield hub


def publish(hub: FakeHub, recipe: Recipe, files: Files) -> None:
    commit = COMMIT if recipe.revision == store.NEWEST else recipe.revision
    hub.repositories[str(recipe.repo_id)] = Repository({commit: files | BESIDE}, commit)


def fetch(hub: FakeHub, recipe: Recipe, models: Path) -> store.Checkpoint:
    return store.fetch(recipe, models, hub=ModelHub(hub.url))


def frames_drawn(recipe: Recipe, checkpoint: store.Checkpoint, folder: Path, **request: object) -> int:
    engine = start_engine(recipe, checkpoint, device="cpu")
    rendered = engine.render(spec_of(recipe, **request), folder, Reports())
    with av.open(rendered.video) as container:
        return sum(1 for _ in container.decode(container.streams.video[0]))


@pytest.mark.parametrize(
    ("recipe", "layout", "weights"),
    [(QAD, qad_fp8, 1 + 5 + 1), (FASTWAN21, fastwan21, 1 + 5 + 1), (WAN, wan21, 2 + 5 + 1)],
    ids=["QAD-FP8", "FastWan2.1", "Wan2.1"],
)
def test_a_published_layout_is_fetched_whole_and_nothing_else(
    hub, tiny_checkpoint, tmp_path, recipe: Recipe, layout: Layout, weights: int
):
    published = layout(tiny_checkpoint)
    publish(hub, recipe, published)

    checkpoint = fetch(hub, recipe, tmp_path)

    assert checkpoint == store.locate(recipe, tmp_path, hashes=True)
    fetched = Manifest.read(checkpoint.folder).files
    assert set(fetched) == set(published)
    assert sum(name.endswith(".safetensors") for name in fetched) == weights
    assert {name: (checkpoint.folder / name).read_bytes() for name in fetched} == published
    assert not set(BESIDE) & set(hub.downloads)
    before = len(hub.downloads)
    fetch(hub, recipe, tmp_path)
    again = hub.downloads[before:]
    assert all(name.endswith(".index.json") for name in again), "the indexes tell which shards are meant"


@pytest.mark.parametrize(
    ("recipe", "layout", "request_of"),
    [
        (QAD, qad_fp8, {}),
        (QAD_UNIPC, qad_fp8, {}),
        (WAN, wan21, {"num_inference_steps": 10}),
    ],
    ids=["fastwan-3step", "fastwan-3step-unipc", "wan-50step"],
)
def test_a_published_layout_is_loaded_and_draws(
    hub, tiny_checkpoint, tmp_path, recipe: Recipe, layout: Layout, request_of: dict[str, object]
):
    publish(hub, recipe, layout(tiny_checkpoint))

    assert frames_drawn(recipe, fetch(hub, recipe, tmp_path), tmp_path, **request_of) == 9


@pytest.mark.parametrize(("recipe", "layout"), [(QAD, qad_fp8), (WAN, wan21)], ids=["QAD-FP8", "Wan2.1"])
def test_what_is_loaded_is_what_was_published(hub, tiny_checkpoint, tmp_path, recipe: Recipe, layout: Layout):
    published = layout(tiny_checkpoint)
    publish(hub, recipe, published)

    components = load_components(fetch(hub, recipe, tmp_path), torch.device("cpu"))

    for part, model in components.models.items():
        files = [
            content
            for name, content in published.items()
            if name.startswith(f"{part}/") and name.endswith(".safetensors")
        ]
        tensors = {name: tensor for content in files for name, tensor in load(content).items()}
        loaded = model.state_dict()
        assert loaded.keys() - tensors.keys() <= {"encoder.embed_tokens.weight"}
        assert all(torch.equal(loaded[name], tensors[name]) for name in loaded.keys() & tensors.keys())
    text = components.text_encoder
    assert torch.equal(text.encoder.embed_tokens.weight, text.shared.weight), "one table, under two names"
    assert components.scheduler_config["flow_shift"] == 3.0
    assert components.tokenizer("a cat").input_ids[-1] == components.tokenizer.eos_token_id
    assert components.tokenizer.unk_token_id not in components.tokenizer("a cat").input_ids


def test_the_gates_of_fastwan21_are_refused_by_name_before_any_job(hub, tiny_checkpoint, tmp_path):
    publish(hub, FASTWAN21, fastwan21(tiny_checkpoint))
    checkpoint = fetch(hub, FASTWAN21, tmp_path)

    with pytest.raises(
        CheckpointError,
        match=rf"{GATES} holds 4 weights of another model, the first is blocks\.0\.to_gate_compress\.bias",
    ):
        start_engine(FASTWAN21, checkpoint, device="cpu")


def test_without_its_gates_fastwan21_is_loaded_from_bfloat16_and_draws(hub, tiny_checkpoint, tmp_path):
    published = fastwan21(tiny_checkpoint)
    tensors = {
        name: tensor for name, tensor in load(published[GATES]).items() if "to_gate_compress" not in name
    }
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    publish(hub, FASTWAN21, published | {GATES: save(tensors, {"format": "pt"})})

    assert frames_drawn(FASTWAN21, fetch(hub, FASTWAN21, tmp_path), tmp_path) == 9
