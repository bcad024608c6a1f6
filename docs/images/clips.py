"""Draw the README's six clips with the shipped checkpoint, one after the other: `python docs/images/clips.py`.

Writes `clips.webp`, all six moving side by side at half their size. Seeds 0 to 5, not chosen. Figures move on every
second frame, so that every second one is left out.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from anime_studio.checkpoints.store import locate
from anime_studio.core.clip import plan
from anime_studio.core.recipes import DEMO
from anime_studio.engine.startup import start_engine
from common.schemas import GenerateRequest

PROMPTS = (
    "A girl with long pink hair in a white dress walking along the beach at sunset, cherry blossom petals falling",
    "a girl with pink twintails waving on a beach at sunset, cherry petals falling",
    "a boy with black hair and a green jacket waving in front of a red torii gate, sunny day",
    "an orange cat running through a flower meadow at noon",
    "schoolgirl, purple ponytail, jumping for joy, autumn leaves, shrine, golden hour, masterpiece",
    "close-up of a smiling girl with blonde twintails and blue eyes in a red sailor uniform, city at night, snow",
)
COLUMNS = 3
SIZE, STRIDE = (384, 224), 2


def main() -> None:
    """Draw, and write the picture beside this file."""
    engine = start_engine(DEMO, locate(DEMO, Path()), device="cpu")
    clips = []
    for seed, prompt in enumerate(PROMPTS):
        spec = plan(GenerateRequest(prompt=prompt), DEMO, model_revision=DEMO.revision, seed=seed)
        latents = engine.denoise(spec, *engine.embed(spec), lambda *_: None)
        frames = np.concatenate(list(engine.frames(latents, larger=True)))[::STRIDE]
        clips.append(
            np.stack([Image.fromarray(frame).resize(SIZE, Image.Resampling.LANCZOS) for frame in frames])
        )
    rows = [np.concatenate(clips[i : i + COLUMNS], axis=2) for i in range(0, len(clips), COLUMNS)]
    pictures = [Image.fromarray(frame) for frame in np.concatenate(rows, axis=1)]
    out = Path(__file__).parent / "clips.webp"
    pictures[0].save(
        out,
        save_all=True,
        append_images=pictures[1:],
        duration=1000 * STRIDE / DEMO.fps,
        loop=0,
        quality=60,
        method=6,
    )
    print(f"{out.name}: {out.stat().st_size / 1000:.0f} kB")  # noqa: T201


if __name__ == "__main__":
    main()
