"""A sparse recipe from its files to a frame: loaded, prepared, generated, and refused where it does not fit."""

import copy
import dataclasses

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch._dynamo.testing import CompileCounterWithBackend

from anime_studio.checkpoints.store import Checkpoint, locate
from anime_studio.core.errors import CheckpointError
from anime_studio.core.recipes import FASTWAN_VSA_3STEP, TINY_RANDOM, Sampler, SparseAttention
from anime_studio.engine.acceleration import PLAIN, Acceleration, packing_for
from anime_studio.engine.denoiser.model import denoiser_for
from anime_studio.engine.loading.components import load_components
from anime_studio.engine.loading.prepare import prepare
from anime_studio.engine.startup import options_for, start_engine
from support.engine import Reports, spec_of
from support.sparse_checkpoint import TRANSFORMER, add_gates, gated_transformer

CPU = torch.device("cpu")
SPARSE = SparseAttention(tile=(4, 4, 4), sparsity=0.5)
RECIPE = dataclasses.replace(
    TINY_RANDOM, sampler=Sampler.DMD, timesteps=(1000, 757, 522), accepts_guidance=False, negative_prompt=None,
    sparse=SPARSE,
)  # fmt: skip
FUSED = Acceleration(fused_denoiser=True)


@pytest.fixture
def sparse(checkpoint) -> Checkpoint:
    return Checkpoint.at(add_gates(checkpoint.folder), gated=True)


def without(checkpoint: Checkpoint, *names: str) -> None:
    path = checkpoint.folder / TRANSFORMER
    save_file({name: tensor for name, tensor in load_file(path).items() if name not in names}, path)


def test_a_recipe_that_is_sparse_locates_a_checkpoint_with_gates(tmp_path, tiny_checkpoint):
    recipe = dataclasses.replace(RECIPE, revision=tiny_checkpoint.name)

    assert locate(recipe, tiny_checkpoint.parents[1]).gated
    assert not locate(TINY_RANDOM, tiny_checkpoint.parents[1]).gated


def test_every_gate_of_the_published_layout_is_loaded(sparse):
    published = load_file(sparse.folder / TRANSFORMER)
    loaded = load_components(sparse, CPU).transformer.state_dict()

    gates = [name for name in published if "to_gate_compress" in name]
    assert len(gates) == 2 * 2
    assert loaded.keys() == published.keys()
    assert all(torch.equal(loaded[name], published[name]) for name in gates)


def test_a_checkpoint_that_lacks_a_gate_is_refused_by_its_name(sparse):
    without(sparse, "blocks.1.to_gate_compress.bias")

    with pytest.raises(CheckpointError, match=r"blocks\.1\.to_gate_compress\.bias"):
        load_components(sparse, CPU)


def test_gates_in_the_checkpoint_of_a_dense_recipe_are_refused(sparse):
    with pytest.raises(CheckpointError, match="to_gate_compress"):
        load_components(Checkpoint.at(sparse.folder), CPU)


def test_what_is_prepared_has_the_gates_too(sparse):
    theirs = load_components(sparse, CPU)
    folder = prepare(sparse, packing_for("cpu"))
    ours = load_components(sparse, CPU)

    assert (ours.folder, theirs.folder) == (folder, sparse.folder)
    assert ours.transformer.state_dict().keys() == theirs.transformer.state_dict().keys()
    assert torch.equal(
        ours.transformer.blocks[1].to_gate_compress.weight,
        theirs.transformer.blocks[1].to_gate_compress.weight,
    )


def test_a_clip_is_generated_and_its_record_names_the_path(sparse, tmp_path):
    engine = start_engine(RECIPE, sparse, device="cpu")

    clip = engine.render(spec_of(RECIPE), tmp_path, Reports())
    assert clip.video.stat().st_size > 0
    assert clip.paths == ("sparse_attention=0.5",)


def predicted(sparse: SparseAttention | None, acceleration: Acceleration, gate: float = 1.0) -> torch.Tensor:
    model = copy.deepcopy(gated_transformer())
    for block in model.blocks:
        for parameter in block.to_gate_compress.parameters():
            parameter.data *= gate
    chance = torch.Generator().manual_seed(1)
    latents = torch.randn(
        1, 16, 5, 12, 18, generator=chance
    )  # 5x6x9 tokens: twelve tiles, most of them partial
    embeddings = torch.randn(1, 7, 24, generator=chance)
    denoiser = denoiser_for(model, acceleration, sparse)
    with torch.inference_mode():
        return denoiser(latents, torch.tensor(757), denoiser.condition(embeddings))


def test_the_fused_denoiser_in_the_order_of_tiles_predicts_what_diffusers_forward_does():
    torch.testing.assert_close(predicted(SPARSE, FUSED), predicted(SPARSE, PLAIN), rtol=0, atol=2e-5)


@pytest.mark.parametrize("acceleration", [PLAIN, FUSED])
def test_all_tiles_and_closed_gates_predict_what_dense_attention_does(acceleration):
    all_tiles = dataclasses.replace(SPARSE, sparsity=0.0)

    torch.testing.assert_close(
        predicted(all_tiles, acceleration, gate=0), predicted(None, acceleration), rtol=0, atol=2e-5
    )


def test_sparsity_and_gates_both_change_the_prediction():
    sparse, dense, closed = predicted(SPARSE, PLAIN), predicted(None, PLAIN), predicted(SPARSE, PLAIN, gate=0)

    assert float((sparse - closed).norm() / sparse.norm()) > 1e-3
    assert float((closed - dense).norm() / dense.norm()) > 1e-3


@torch.inference_mode()
def test_two_lengths_of_a_clip_compile_the_blocks_for_every_other(monkeypatch):
    counter = CompileCounterWithBackend("aot_eager")
    original = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda module, **how: original(module, backend=counter, **how)
    )
    torch._dynamo.reset()
    options = dataclasses.replace(FUSED, compile_blocks=True)
    denoiser = denoiser_for(gated_transformer(), options, SPARSE)
    text = denoiser.condition(torch.randn(1, 7, 24))
    compiled = []
    for latent_frames in (9, 3, 4, 7, 9):
        denoiser(torch.randn(1, 16, latent_frames, 12, 16), torch.tensor(500), text)
        compiled.append(counter.frame_count)

    assert compiled[0] < compiled[1] == compiled[-1]


def test_a_cpu_takes_the_plain_path():
    assert options_for(FASTWAN_VSA_3STEP, CPU) == PLAIN
