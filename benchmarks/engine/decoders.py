"""The three decoders at full shape with random weights: seconds to frames and to an MP4, memory, error.

The weights are made by the authors' own code, written in the layout that is published, read by our loader, and decoded by
both; the error is relative L2 against the authors' code in float32. Without their files only ours is timed.

    python -m benchmarks.engine.decoders [--taehv taehv.py] [--wan-vae vae.py] [--runs 5] [--out benchmarks/results]

`taehv.py` is madebyollin/taehv's, `vae.py` Wan-Video/Wan2.1's `wan/modules/vae.py`, whose width is an argument.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gc
import importlib.util
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from safetensors.torch import save_file

from anime_studio.core.decoders import Decoder
from anime_studio.engine.acceleration import PLAIN, Acceleration, options_for_capability
from anime_studio.engine.decoder.choice import decoder_for
from anime_studio.engine.decoder.host_frames import frames_on_host
from anime_studio.engine.loading.smaller_decoders import LIGHT_BASE_DIM, load_smaller_decoder
from anime_studio.engine.video import VideoWriter
from benchmarks.engine.bench import machine_and_versions, relative_l2

GIB = 1024**3
SHAPE = (1, 16, 21, 60, 104)  # 81 frames of 480x832
FRAMES, SIZE, FPS = 81, (832, 480), 16
CONTRAST = 0.1
"""Of the last convolution's weights: x264's time depends on content, and full-range noise is no picture."""


def imported(path: Path) -> ModuleType:
    """Return the module in the file at *path*."""
    spec = importlib.util.spec_from_file_location(path.stem + "_reference", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Reference:
    """The authors' model in each dtype that is asked for; narrowing it in place would lose its numbers."""

    def __init__(self, model: Any) -> None:
        self.model = model.eval().requires_grad_(False)
        self._narrow: dict[torch.dtype, Any] = {torch.float32: model}

    def in_dtype(self, dtype: torch.dtype) -> Any:
        """Return the model with its weights in *dtype*."""
        if dtype not in self._narrow:
            self._narrow[dtype] = copy.deepcopy(self.model).to(dtype)
        return self._narrow[dtype]


class TaehvReference(Reference):
    """TAEHV by its author: weights under which signals keep their size, and how it decodes our latents."""

    def __init__(self, path: Path, config: Any, device: torch.device) -> None:
        torch.manual_seed(0)
        super().__init__(imported(path).TAEHV(checkpoint_path=None).to(device))
        for parameter in self.model.decoder.parameters():
            if parameter.ndim == 4:
                torch.nn.init.kaiming_normal_(parameter, nonlinearity="relu")
        last = self.model.decoder[-1]
        last.weight.data *= CONTRAST * 0.05
        last.bias.data.fill_(0.5)
        shape = (1, 1, -1, 1, 1)
        self._mean = torch.tensor(config.latents_mean, device=device).view(shape)
        self._std = torch.tensor(config.latents_std, device=device).view(shape)

    def decode(self, latents: torch.Tensor, dtype: torch.dtype, *, parallel: bool = True) -> torch.Tensor:
        """Return (n, 3, height, width) in [-1, 1]."""
        raw = (latents.transpose(1, 2) * self._std + self._mean).to(dtype)
        frames: torch.Tensor = self.in_dtype(dtype).decode_video(raw, parallel, False)[0]
        return frames * 2 - 1


class WanReference(Reference):
    """Wan 2.1's VAE by its authors, at LightVAE's width."""

    def __init__(self, path: Path, config: Any, device: torch.device) -> None:
        torch.manual_seed(0)
        made = imported(path).WanVAE_
        model = made(dim=LIGHT_BASE_DIM, z_dim=16, temperal_downsample=[False, True, True])
        super().__init__(model.to(device))
        self.model.decoder.head[-1].weight.data *= CONTRAST
        for block in self.model.modules():
            if type(block).__name__ == "AttentionBlock":  # its constructor switches it off
                block.proj.weight.normal_(std=0.05)
        self._mean = torch.tensor(config.latents_mean, device=device)
        self._std = torch.tensor(config.latents_std, device=device)

    def decode(self, latents: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Return (n, 3, height, width) in [-1, 1]."""
        scale = [self._mean.to(dtype), (1.0 / self._std).to(dtype)]
        frames: torch.Tensor = self.in_dtype(dtype).decode(latents.to(dtype), scale)
        return frames.clamp_(-1, 1)[0].transpose(0, 1)


class Bench:
    """What is measured, and with which clock."""

    def __init__(self, device: torch.device, runs: int) -> None:
        self.device, self.runs = device, runs
        self.acceleration: Acceleration = PLAIN
        if device.type == "cuda":
            self.acceleration = options_for_capability(torch.cuda.get_device_capability(device))
        self.rows: list[dict[str, Any]] = []

    def latents(self) -> torch.Tensor:
        """Return fresh latents."""
        return torch.randn(SHAPE, device=self.device)

    def seconds(self, act: Callable[[torch.Tensor], Any], *, warm_ups: int = 2) -> float:
        """Return the median seconds of *act* on fresh latents."""
        taken = []
        for _ in range(warm_ups + self.runs):
            latents = self.latents()
            self._wait()
            begun = time.perf_counter()
            act(latents)
            self._wait()
            taken.append(time.perf_counter() - begun)
        return statistics.median(taken[warm_ups:])

    def add(self, name: str, decoder: Any, truth: Callable[[torch.Tensor], torch.Tensor] | None) -> None:
        """Measure one of our decoders."""
        row: dict[str, Any] = {"decoder": name}
        self._begin_peak()
        row["card_s"] = self.seconds(lambda latents: _drain(decoder.decode(latents)))
        row["frames_s"] = self.seconds(lambda latents: _drain(frames_on_host(decoder.decode(latents))))
        row["peak_gib"] = self._peak_gib()
        row["mp4_s"] = self.seconds(lambda latents: self._write(decoder, latents))
        if truth is not None:
            latents = self.latents()
            ours = torch.cat([group.float().cpu() for group in decoder.decode(latents)])
            row["relative_l2"] = relative_l2(ours, truth(latents))
        self.rows.append(row)
        print(json.dumps(row))

    def prove(self, decoder: Decoder, model: Any, truth: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Compare a plain walk in float32, where rounding hides nothing."""
        latents = self.latents()
        plain = decoder_for(model.to(self.device))
        ours = torch.cat([group.cpu() for group in plain.decode(latents)])
        self.rows.append(
            {"decoder": f"{decoder}, float32, plain", "relative_l2": relative_l2(ours, truth(latents))}
        )
        print(json.dumps(self.rows[-1]))

    def add_reference(self, name: str, decode: Callable[[torch.Tensor], torch.Tensor], error: float) -> None:
        """Measure the authors' own decode; its *error* is what narrow numbers alone cost."""
        self._begin_peak()
        seconds = self.seconds(decode)
        self.rows.append(
            {"decoder": name, "card_s": seconds, "peak_gib": self._peak_gib(), "relative_l2": error}
        )
        print(json.dumps(self.rows[-1]))

    def _write(self, decoder: Any, latents: torch.Tensor) -> None:
        with tempfile.TemporaryDirectory() as folder:
            video, poster = Path(folder, "clip.mp4"), Path(folder, "poster.jpg")
            writer = VideoWriter(video, poster, size=SIZE, fps=FPS, num_frames=FRAMES, metadata="benchmark")
            with writer:
                for group in frames_on_host(decoder.decode(latents)):
                    writer.write(group)
            self.mp4_bytes = video.stat().st_size

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _begin_peak(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()

    def _peak_gib(self) -> float:
        if self.device.type != "cuda":
            return 0.0
        return (torch.cuda.max_memory_allocated() - self._before) / GIB


def _drain(groups: Iterator[Any]) -> None:
    for _ in groups:
        pass


def full(bench: Bench) -> None:
    """The checkpoint's own decoder; its error is diffusers' business (`benchmarks.engine.compare`)."""
    torch.manual_seed(0)
    with bench.device:
        vae = AutoencoderKLWan().eval().requires_grad_(False)
    vae.decoder.conv_out.weight *= CONTRAST
    if bench.device.type == "cuda":
        vae = vae.to(torch.bfloat16)
    bench.add("full", decoder_for(vae, bench.acceleration), None)


def light(bench: Bench, config: Any, reference: WanReference, folder: Path) -> None:
    """LightVAE beside Wan's own code."""
    path = _saved(reference.model, folder / "light.safetensors")
    latents, narrow = bench.latents(), torch.bfloat16

    def truth(given: torch.Tensor) -> torch.Tensor:
        return reference.decode(given, torch.float32)

    bench.prove(Decoder.LIGHT, load_smaller_decoder(Decoder.LIGHT, path, config, torch.device("cpu")), truth)
    error = relative_l2(reference.decode(latents, narrow).float(), truth(latents))
    bench.add_reference(
        "light, its authors' code, bfloat16", lambda given: reference.decode(given, narrow), error
    )
    model = load_smaller_decoder(Decoder.LIGHT, path, config, bench.device)
    bench.add("light", decoder_for(model, bench.acceleration), truth)


def tiny(bench: Bench, config: Any, reference: TaehvReference, folder: Path) -> None:
    """TAEHV beside its author's code."""
    path = _saved(reference.model, folder / "tiny.safetensors")
    latents, narrow = bench.latents(), torch.float16

    def truth(given: torch.Tensor) -> torch.Tensor:
        return reference.decode(given, torch.float32, parallel=False)

    bench.prove(Decoder.TINY, load_smaller_decoder(Decoder.TINY, path, config, torch.device("cpu")), truth)
    error = relative_l2(reference.decode(latents, narrow).float(), truth(latents))
    bench.add_reference(
        "tiny, its author's code, float16", lambda given: reference.decode(given, narrow), error
    )
    model = load_smaller_decoder(Decoder.TINY, path, config, bench.device)
    for name, acceleration in (("tiny, not compiled", PLAIN), ("tiny", bench.acceleration)):
        bench.add(name, decoder_for(model, acceleration), truth)


def _saved(reference: Any, path: Path) -> Path:
    save_file({name: tensor.cpu().contiguous() for name, tensor in reference.state_dict().items()}, path)
    return path


@torch.inference_mode()
def main() -> None:
    """Run, print and write; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--taehv", type=Path)
    parser.add_argument("--wan-vae", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    asked = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.allow_tf32 = False  # which convolutions in float32 would use by themselves
    bench, config = Bench(device, asked.runs), AutoencoderKLWan(base_dim=8).config
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        full(bench)
        if asked.wan_vae:
            light(bench, config, WanReference(asked.wan_vae, config, device), folder)
        if asked.taehv:
            tiny(bench, config, TaehvReference(asked.taehv, config, device), folder)
    result = {
        **machine_and_versions(device),
        "shape": "480x832, 81 frames",
        "runs": asked.runs,
        "rows": bench.rows,
    }
    if device.type == "cuda":
        asked.out.mkdir(parents=True, exist_ok=True)
        name = f"decoders_{'h200' if 'H200' in result['device'] else 'h100'}.json"
        (asked.out / name).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
