"""Whole clips by recipe and decoder, from a prompt whose text is ready to frames or to an MP4, with random weights.

The text is resident: its embeddings are on the device before the clock starts. Seconds are the median of `--runs` clips
after a warm-up, each with new noise. A forward's error is relative L2 against the same weights in float32 and the same
attention, dense or sparse, in plain torch operations; `peaked` has queries three times as large and keys that share an
offset, as trained models do. The baseline is plain `WanPipeline`. On a CPU the shape is tiny: that shows that the
benchmark runs, and writes no result.

    python -m benchmarks.engine.clips [--runs 5] [--deadline-s 440] [--out benchmarks/results]
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import functools
import gc
import json
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import WanPipeline
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from safetensors.torch import save_file

from anime_studio.core.clip import plan
from anime_studio.core.decoders import Decoder
from anime_studio.core.recipes import FASTWAN_3STEP, FASTWAN_VSA_3STEP, Recipe
from anime_studio.engine.acceleration import PLAIN, Acceleration, Attention
from anime_studio.engine.decoder.choice import decoder_for
from anime_studio.engine.decoder.host_frames import frames_on_host
from anime_studio.engine.decoder.taehv import published_shapes
from anime_studio.engine.denoiser.model import Denoiser, denoiser_for
from anime_studio.engine.loading.architecture import without_encoder
from anime_studio.engine.loading.gated_transformer import GatedWanTransformer3DModel
from anime_studio.engine.loading.smaller_decoders import LIGHT_BASE_DIM, load_smaller_decoder
from anime_studio.engine.loading.wan_names import wan_name
from anime_studio.engine.sampling import guided, sample, seeded_noise
from anime_studio.engine.startup import options_for
from anime_studio.engine.video import VideoWriter
from benchmarks import RESULTS, card_in
from benchmarks.engine.bench import GIB, machine_and_versions, relative_l2
from benchmarks.engine.sides import CONTRAST, GATE_STD, cast_transformer
from common.schemas import GenerateRequest

PEAK = 3.0
TEXT_TOKENS = 512


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes of the models and of a clip."""

    transformer: dict[str, Any]
    base_dim: int
    size: tuple[int, int]
    num_frames: int

    @property
    def latents(self) -> tuple[int, ...]:
        """Of a clip: (1, z, latent frames, height / 8, width / 8)."""
        width, height = self.size
        return (1, 16, (self.num_frames - 1) // 4 + 1, height // 8, width // 8)


FULL = Shape({"num_attention_heads": 12, "num_layers": 30, "ffn_dim": 8960}, 96, (832, 480), 81)
"""Wan 2.1 1.3B's (Wan2.1 `wan/configs/wan_t2v_1_3B.py`)."""
TINY = Shape(
    {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2, "ffn_dim": 64}, 8, (96, 48), 9
)


class Bench:
    """One run: device, shape, deadline and what is known so far."""

    def __init__(self, device: torch.device, shape: Shape, runs: int, deadline_s: float) -> None:
        self.device, self.shape, self.runs = device, shape, runs
        self.end = time.monotonic() + deadline_s
        self.cuda = device.type == "cuda"
        self.result: dict[str, Any] = machine_and_versions(device) | {
            "shape": f"{shape.size[0]}x{shape.size[1]}, {shape.num_frames} frames",
            "runs": runs,
            "rows": [],
            "forward": {"dense": {}, "sparse": {}},
            "baseline": {},
            "errors": [],
        }

    def median(self, act: Callable[[int], Any], *, warm_ups: int = 1) -> float:
        """Return the median seconds of *act*, which gets a fresh seed."""
        taken = []
        for index in range(warm_ups + self.runs):
            self.wait()
            begun = time.perf_counter()
            result = act(index)
            self.wait()
            taken.append(time.perf_counter() - begun)
            del result
            if index >= warm_ups and time.monotonic() > self.end:
                break
        return statistics.median(taken[warm_ups:])

    def wait(self) -> None:
        """Wait until the device is idle."""
        if self.cuda:
            torch.cuda.synchronize()

    def begin_peak(self, *, empty: bool = True) -> None:
        """Begin a new peak; *empty*, free what is cached before."""
        gc.collect()
        if self.cuda:
            if empty:
                torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_gib(self, *, of_tensors: bool = False) -> float:
        """Return GiB at the peak for weights, text and clip: taken from the device, or what tensors took of them."""
        if not self.cuda:
            return 0.0
        peak = torch.cuda.max_memory_allocated() if of_tensors else torch.cuda.max_memory_reserved()
        return peak / GIB

    def attempt(self, what: str, act: Callable[[], None]) -> None:
        """Run a part; what goes wrong is a result, and the next part still runs."""
        if time.monotonic() > self.end:
            self.result["errors"].append(f"{what}: not run, out of time")
            return
        begun = time.monotonic()
        try:
            with torch.inference_mode():
                act()
        except Exception as error:  # noqa: BLE001 (a part that fails is a result)
            traceback.print_exc()
            self.result["errors"].append(f"{what}: {type(error).__name__}: {error}"[:500])
        print(f"{what}: {time.monotonic() - begun:.0f} s", flush=True)
        torch._dynamo.reset()
        self.begin_peak()


def transformer_of(shape: Shape, recipe: Recipe, device: torch.device, *, peaked: bool = False) -> Any:
    """Return a denoiser with random float32 weights, gates that open if the recipe is sparse."""
    torch.manual_seed(0)
    made = WanTransformer3DModel if recipe.sparse is None else GatedWanTransformer3DModel
    with device:
        model = made(**shape.transformer)
    with torch.no_grad():
        for block in model.blocks:
            block.scale_shift_table.normal_(0, GATE_STD)
            if peaked:
                block.attn1.norm_q.weight.mul_(PEAK)
                block.attn1.to_k.bias.normal_(0, 1)
    return model.eval().requires_grad_(False)


def vae_of(shape: Shape, device: torch.device) -> Any:
    """Return the full decoder with random weights, as it is loaded for *device*."""
    torch.manual_seed(0)
    with device:
        vae = AutoencoderKLWan(base_dim=shape.base_dim)
    with torch.no_grad():
        vae.decoder.conv_out.weight.mul_(CONTRAST)
    return vae.to(torch.bfloat16 if device.type == "cuda" else torch.float32).eval().requires_grad_(False)


def decoder_of(decoder: Decoder, bench: Bench, folder: Path, options: Acceleration) -> Any:
    """Return a decoder with random weights; the smaller ones are read from files in the layout that is published."""
    vae = vae_of(bench.shape, bench.device)
    if decoder is Decoder.FULL:
        return decoder_for(without_encoder(vae), options)
    weights = light_weights() if decoder is Decoder.LIGHT else tiny_weights()
    path = folder / f"{decoder}.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path)
    return decoder_for(load_smaller_decoder(decoder, path, vae.config, bench.device), options)


def light_weights() -> dict[str, torch.Tensor]:
    """Return random weights of LightVAE under the names of Wan's authors."""
    torch.manual_seed(0)
    vae = AutoencoderKLWan(base_dim=LIGHT_BASE_DIM)
    with torch.no_grad():
        vae.decoder.conv_out.weight.mul_(CONTRAST)
    return {
        wan_name(name, num_res_blocks=vae.config.num_res_blocks): tensor.detach()
        for name, tensor in vae.state_dict().items()
    }


def tiny_weights() -> dict[str, torch.Tensor]:
    """Return random weights of TAEHV's shape under which signals keep their size."""
    chance, weights = torch.Generator().manual_seed(0), {}
    for name, shape in published_shapes().items():
        gain = (2 / torch.Size(shape[1:]).numel()) ** 0.5 if len(shape) == 4 else 0.1
        weights[name] = gain * torch.randn(shape, generator=chance)
    weights["decoder.22.weight"] *= 0.05 * CONTRAST
    weights["decoder.22.bias"][:] = 0.5
    return weights


def text_of(model: Any, bench: Bench) -> torch.Tensor:
    """Return random embeddings on the device, as a text container sends them."""
    dtype = model.patch_embedding.weight.dtype
    return torch.randn(1, TEXT_TOKENS, model.config.text_dim, device=bench.device, dtype=dtype)


def measure_forward(bench: Bench, name: str, recipe: Recipe, options: Acceleration) -> None:
    """Fill `forward`: seconds, and errors with flat and with peaked weights."""
    found = bench.result["forward"][name]
    found |= _error_and_seconds(bench, recipe, options)
    torch._dynamo.reset()
    bench.begin_peak()
    found["error_peaked"] = _error_and_seconds(bench, recipe, options, peaked=True)["error"]


def _error_and_seconds(
    bench: Bench, recipe: Recipe, options: Acceleration, *, peaked: bool = False
) -> dict[str, float]:
    model = transformer_of(bench.shape, recipe, bench.device, peaked=peaked)
    timestep, embeddings = torch.tensor(757, device=bench.device), text_of(model, bench)
    latents = [torch.randn(bench.shape.latents, device=bench.device) for _ in range(2 + bench.runs)]

    def predict(denoiser: Denoiser) -> torch.Tensor:
        return denoiser(latents[0], timestep, denoiser.condition(embeddings)).float().cpu()

    exact = predict(denoiser_for(model, PLAIN, recipe.sparse))
    denoiser = denoiser_for(served(copy.deepcopy(model), bench), options, recipe.sparse)
    error = relative_l2(predict(denoiser), exact)
    if peaked:
        return {"error": error}
    text = denoiser.condition(embeddings)
    seconds = bench.median(lambda index: denoiser(latents[index], timestep, text), warm_ups=2)
    return {"seconds": seconds, "error": error}


def measure_clips(bench: Bench, recipe: Recipe, options: Acceleration) -> None:
    """Add the rows of *recipe*: each decoder, to frames in host memory and to an MP4."""
    model = served(transformer_of(bench.shape, recipe, bench.device), bench)
    denoiser = denoiser_for(model, options, recipe.sparse)
    embeddings = text_of(model, bench)
    spec = plan(GenerateRequest(prompt="a cat", duration=5), recipe, model_revision="random", seed=0)

    def latents_of(seed: int) -> torch.Tensor:
        noise, generator = seeded_noise(bench.shape.latents, seed)
        velocity = guided(denoiser, embeddings, None, None)
        noise = noise.to(bench.device)
        steps = sample(recipe, spec.num_inference_steps, {}, noise, velocity, generator)
        return list(steps)[-1]

    def write(decoder: Any, seed: int, folder: Path) -> None:
        video, poster = folder / "clip.mp4", folder / "poster.jpg"
        frames = bench.shape.num_frames
        writer = VideoWriter(
            video, poster, size=bench.shape.size, fps=spec.fps, num_frames=frames, metadata="benchmark"
        )
        with writer:
            for group in frames_on_host(decoder.decode(latents_of(seed))):
                writer.write(group)

    for name in Decoder:
        with tempfile.TemporaryDirectory() as folder:
            decoder = decoder_of(name, bench, Path(folder), options)
            for to, act in (
                ("frames", lambda seed: list(frames_on_host(decoder.decode(latents_of(seed))))),  # noqa: B023
                ("mp4", lambda seed: write(decoder, seed, Path(folder))),  # noqa: B023
            ):
                bench.begin_peak()
                seconds = bench.median(act)
                row = {"recipe": recipe.name, "decoder": name.value, "to": to, "seconds": seconds}
                bench.result["rows"].append(row | {"peak_gib": bench.peak_gib()})
                print(json.dumps(bench.result["rows"][-1]), flush=True)


def measure_baseline(bench: Bench) -> None:
    """Fill `baseline`: plain `WanPipeline` from embeddings to frames in host memory, in bfloat16, its defaults."""
    model = served(transformer_of(bench.shape, FASTWAN_3STEP, bench.device), bench)
    pipeline = WanPipeline(
        tokenizer=None,
        text_encoder=None,
        transformer=model,
        vae=vae_of(bench.shape, bench.device),
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=8.0
        ),
    )
    pipeline.set_progress_bar_config(disable=True)
    embeddings, (width, height) = text_of(model, bench), bench.shape.size
    bench.result["baseline"]["diffusers_frames_s"] = bench.median(
        lambda seed: pipeline(
            prompt_embeds=embeddings,
            height=height,
            width=width,
            num_frames=bench.shape.num_frames,
            num_inference_steps=FASTWAN_3STEP.num_inference_steps,
            guidance_scale=1.0,
            generator=torch.Generator("cpu").manual_seed(seed),
            output_type="np",
        )
    )


def measure_parts(bench: Bench) -> None:
    """Add the parts of one layer's sparse attention, and other launches of its kernel, to `parts`; seconds each."""
    from anime_studio.engine.denoiser import int8_attention as kernels
    from anime_studio.engine.denoiser.tiles import tiles_of

    assert FASTWAN_VSA_3STEP.sparse is not None
    grid = (bench.shape.latents[2], bench.shape.latents[3] // 2, bench.shape.latents[4] // 2)
    tiles = tiles_of(grid, FASTWAN_VSA_3STEP.sparse, bench.device)
    heads, width = 12, 128
    dim, tokens = heads * width, len(tiles.order)
    chance = torch.Generator(bench.device).manual_seed(0)
    qkv = torch.randn(1, tokens, 3 * dim, generator=chance, device=bench.device).bfloat16()
    gain = torch.ones(dim, device=bench.device).bfloat16()
    angle = torch.rand(1, tokens, 1, width // 2, generator=chance, device=bench.device)
    rotary, ragged = (angle.cos(), angle.sin()), kernels.Ragged(tiles.starts, tiles.sizes)
    base = kernels.launch_for(torch.cuda.get_device_capability(bench.device))
    assert base is not None
    scores = torch.randn(heads, len(tiles.sizes), len(tiles.sizes), generator=chance, device=bench.device)
    found = bench.result.setdefault("parts", {})

    def averaged(act: Callable[[], Any]) -> float:
        return bench.median(lambda _: [act() for _ in range(10)]) / 10

    found["topk"] = averaged(lambda: scores.topk(tiles.kept, sorted=False))
    found["dense_layer"] = averaged(lambda: kernels.attend_int8(qkv, gain, gain, rotary, heads, 1e-6, base))
    for warps, stages, copy_engine in ((4, 3, True), (4, 2, True), (4, 4, True), (4, 3, False), (8, 3, True)):
        launch = dataclasses.replace(
            kernels.launch_for_tiles(base, tiles.volume),
            num_warps=warps,
            num_stages=stages,
            copy_engine=copy_engine,
        )
        given = qkv, gain, gain, rotary, heads, 1e-6, launch, ragged, tiles.kept
        name = f"sparse_layer warps={warps} stages={stages} copy_engine={copy_engine}"
        try:
            found[name] = averaged(functools.partial(kernels.attend_int8_sparsely, *given))
        except Exception as error:  # noqa: BLE001 (a launch that does not fit is a result)
            found[name] = f"{type(error).__name__}: {error}"[:200]
    print(json.dumps(found, indent=2), flush=True)


def served(model: Any, bench: Bench) -> Any:
    """Return *model* in the dtypes that the device serves it in."""
    return cast_transformer(model) if bench.cuda else model


def main() -> None:
    """Run, print and write; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--deadline-s", type=float, default=440.0, help="nothing is begun after this")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--cpu", action="store_true", help="the tiny shape, even where there is a GPU")
    parser.add_argument("--commit", default="", help="where the folder is no repository")
    asked = parser.parse_args()
    cuda = torch.cuda.is_available() and not asked.cpu
    device = torch.device("cuda", 0) if cuda else torch.device("cpu")
    bench = Bench(device, FULL if cuda else TINY, asked.runs, asked.deadline_s)
    bench.result["commit"] = asked.commit or bench.result["commit"]
    torch.backends.cudnn.allow_tf32 = False  # float32 is the reference
    dense, sparse = (options_of(recipe, bench) for recipe in (FASTWAN_3STEP, FASTWAN_VSA_3STEP))
    bench.result["options"] = {"dense": list(dense.names), "sparse": list(sparse.names)}

    if cuda:
        bench.attempt("parts", lambda: measure_parts(bench))
    bench.attempt("forward, sparse", lambda: measure_forward(bench, "sparse", FASTWAN_VSA_3STEP, sparse))
    bench.attempt("clips, sparse", lambda: measure_clips(bench, FASTWAN_VSA_3STEP, sparse))
    bench.attempt("clips, dense", lambda: measure_clips(bench, FASTWAN_3STEP, dense))
    bench.attempt("forward, dense", lambda: measure_forward(bench, "dense", FASTWAN_3STEP, dense))
    bench.attempt("baseline", lambda: measure_baseline(bench))
    print(json.dumps(bench.result, indent=2))
    if cuda:
        asked.out.mkdir(parents=True, exist_ok=True)
        file = asked.out / f"clips_{card_in(bench.result)}.json"
        file.write_text(json.dumps(bench.result, indent=2) + "\n", encoding="utf-8")


def options_of(recipe: Recipe, bench: Bench) -> Acceleration:
    """Return the paths that a server would try first on the bench's device."""
    if bench.cuda:
        return options_for(recipe, bench.device)
    return Acceleration(fused_denoiser=True, attention=Attention.SDPA)


if __name__ == "__main__":
    main()
