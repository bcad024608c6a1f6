"""SRVGGNetCompact as ncnn stores it, written by a test."""

import numpy as np

from anime_studio.engine.upscaling import Upscaler

FLOAT16 = 0x01306B47


def as_ncnn(upscaler: Upscaler) -> tuple[bytes, bytes]:
    """Return the `.param` and the `.bin` file of *upscaler*, its weights rounded to float16."""
    features, scale = upscaler.config.features, upscaler.config.scale
    layers = ["Input in 0 1 data", "Split twice 1 2 data a b"]
    numbers = b""
    last = "b"
    for index, layer in enumerate(upscaler.body):
        weight = layer.weight.detach().numpy()
        if weight.ndim == 4:
            outputs, count = len(weight), weight.size
            layers.append(f"Convolution c{index} 1 1 {last} {index} 0={outputs} 1=3 4=1 5=1 6={count}")
            halves = weight.astype("<f2").tobytes()
            numbers += np.uint32(FLOAT16).astype("<u4").tobytes() + halves + bytes(-len(halves) % 4)
            numbers += layer.bias.detach().numpy().astype("<f4").tobytes()
        else:
            layers.append(f"PReLU p{index} 1 1 {last} {index} 0={features}")
            numbers += weight.astype("<f4").tobytes()
        last = str(index)
    layers += [
        f"PixelShuffle s 1 1 {last} shuffled 0={scale}",
        f"Interp r 1 1 a repeated 0=1 1={float(scale):e} 2={float(scale):e}",
        "BinaryOp add 2 1 shuffled repeated out",
    ]
    text = "\n".join(["7767517", f"{len(layers)} {len(layers) + 1}", *layers]) + "\n"
    return text.encode(), numbers
