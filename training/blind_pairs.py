"""Ten pairs of pictures for viewers to choose from, without names: `python -m training.blind_pairs FOLDER`.

Each pair is one clip of a held-out prompt by the checkpoint in the package, made larger by its upscaler and by bicubic
interpolation: two whole frames, one below the other. Which of `01_A.png` and `01_B.png` is the upscaler's is chance.
The folder `answers` is for nobody who chooses: `key.json` names the upscaler's letters, and `pairs.webp` shows the upper
frames, bicubic interpolation left, upscaler right (`results/upscaler_pairs.webp` is such a sheet). How many of ten were
the upscaler's is `preferred_of_ten` in `results/upscaler.json`.
"""

from __future__ import annotations

import argparse
import secrets
from pathlib import Path

import torch
from PIL import Image

from anime_studio.checkpoints.store import locate
from anime_studio.core.clip import plan
from anime_studio.core.recipes import DEMO
from anime_studio.engine.engine import Engine
from anime_studio.engine.startup import start_engine
from common.schemas import GenerateRequest
from training.config import FULL
from training.evaluate import SEED
from training.report import save_json
from training.upscaler_evaluation import bicubic
from training.world.held_out import write_held_out_prompts

PAIRS, FRAMES = 10, [20, 60]


@torch.inference_mode()
def pair_of(engine: Engine, prompt: str, seed: int) -> tuple[Image.Image, Image.Image]:
    """Return the frames of a clip by bicubic interpolation, and by the upscaler."""
    spec = plan(GenerateRequest(prompt=prompt), DEMO, model_revision=DEMO.revision, seed=seed)
    latents = engine.denoise(spec, *engine.embed(spec), lambda *_: None)
    small = torch.cat(list(engine.decoded(latents, larger=False))).clamp(-1, 1)[FRAMES] * 0.5 + 0.5
    upscaler = engine.components.upscaler
    assert upscaler is not None
    return _picture(bicubic(small, upscaler.config.scale)), _picture(upscaler(small).clamp(0, 1))


def blinded(pair: tuple[Image.Image, Image.Image], upscaled_is_b: bool) -> dict[str, Image.Image]:
    """Return the two pictures of `pair_of` by their letters."""
    first, second = pair if upscaled_is_b else pair[::-1]
    return {"A": first, "B": second}


def _picture(frames: torch.Tensor) -> Image.Image:
    below_each_other = torch.cat(list(frames), dim=1).permute(1, 2, 0)
    return Image.fromarray((below_each_other * 255).round().byte().numpy())


def main() -> None:
    """Draw, and write the pictures and the key."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    answers = folder / "answers"
    answers.mkdir(parents=True)
    engine = start_engine(DEMO, locate(DEMO, Path()), device="cpu")
    captions = write_held_out_prompts(FULL.held_out_clips, SEED)[:PAIRS]  # those of `results/upscaler.png`
    key: dict[str, str] = {}
    sheet: Image.Image | None = None
    for index, (_, caption) in enumerate(captions):
        pair = pair_of(engine, caption.text, index)
        name, upscaled_is_b = f"{index + 1:02d}", bool(secrets.randbelow(2))
        for letter, picture in blinded(pair, upscaled_is_b).items():
            picture.save(folder / f"{name}_{letter}.png")
        key[name] = "B" if upscaled_is_b else "A"
        width, height = pair[0].width, pair[0].height // len(FRAMES)
        sheet = sheet or Image.new("RGB", (2 * width, PAIRS * height))
        for column, picture in enumerate(pair):
            sheet.paste(picture.crop((0, 0, width, height)), (column * width, index * height))
        print(f"{name}: {caption.text}", flush=True)
    save_json(answers / "key.json", key)
    if sheet:
        sheet.save(answers / "pairs.webp", quality=80, method=6)


if __name__ == "__main__":
    main()
