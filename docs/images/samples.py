"""Draw what a first visitor of the studio page sees, with the shipped checkpoint: `python docs/images/samples.py`.

For each example prompt of the recipe `demo` it writes a thumbnail, and for the first one the clip that plays at the
first visit, into the page's folder. The seed is each example's place in the list, not chosen.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import av
from PIL import Image

import anime_studio.web
from anime_studio.checkpoints.store import locate
from anime_studio.core.clip import plan
from anime_studio.core.recipes import DEMO
from anime_studio.core.show import recipe_card
from anime_studio.engine.startup import start_engine
from common.schemas import GenerateRequest

STATIC = Path(anime_studio.web.__file__).parent / "static"
THUMBNAIL_SIZE = (208, 120)


def write_small(frames: Sequence[Image.Image], path: Path) -> None:
    """Write the clip with more effort than a job has time for: the package stays small."""
    options = {"movflags": "+faststart"}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=DEMO.fps, options={"crf": "27", "preset": "veryslow"})
        stream.width, stream.height, stream.pix_fmt = *frames[0].size, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())


def main() -> None:
    """Draw, and write the files."""
    engine = start_engine(DEMO, locate(DEMO, Path()), device="cpu")
    for seed, prompt in enumerate(recipe_card(DEMO).examples):
        spec = plan(GenerateRequest(prompt=prompt), DEMO, model_revision=DEMO.revision, seed=seed)
        with tempfile.TemporaryDirectory() as folder:
            clip = engine.render(spec, Path(folder), lambda *_: None)
            with av.open(str(clip.video)) as video:
                frames = [frame.to_image() for frame in video.decode(video=0)]
            middle: Image.Image = frames[len(frames) // 2]
            middle.resize(THUMBNAIL_SIZE, Image.Resampling.LANCZOS).save(
                STATIC / f"example-{seed}.webp", quality=70
            )
            if seed == 0:
                write_small(frames, STATIC / "sample.mp4")
                middle.save(STATIC / "sample.webp", quality=75)
        print(f"{seed}: {prompt}")  # noqa: T201


if __name__ == "__main__":
    main()
