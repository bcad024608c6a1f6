"""What a document says was measured is what a results file says: benchmarks/results, training/results."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

PROJECT = Path(__file__).parents[2]
PERFORMANCE, MODEL_CARD = "docs/performance.md", "training/MODEL_CARD.md"
GIB = 2**30
DECODERS = ("full", "light", "tiny")


@cache
def words_of(document: str) -> str:
    """Return a document's text on one line, without the stars of bold type."""
    return " ".join((PROJECT / document).read_text(encoding="utf-8").replace("**", "").split())


def results(name: str) -> dict[str, Any]:
    folder = "training" if name in ("evaluation", "upscaler") else "benchmarks"
    loaded: dict[str, Any] = json.loads((PROJECT / folder / "results" / f"{name}.json").read_text())
    return loaded


def ms(seconds: float) -> str:
    return f"{seconds * 1000:,.0f} ms"


def stages(name: str) -> Iterator[str]:
    measured = results(name)
    error = measured["relative_l2"]
    for stage, key in (
        ("text", "text"),
        ("one denoise forward", "denoise_forward"),
        ("decode to host memory", "decode"),
    ):
        theirs, ours = (measured["stages"][f"{key}_s"][side] for side in ("diffusers", "ours"))
        errors = f"{error['diffusers'][key] * 100:.1f}e-2 / {error['ours'][key] * 100:.1f}e-2"
        yield f"| {stage} | {ms(theirs)} | {ms(ours)} | {theirs / ours:.1f} | {errors} |"
    theirs, ours = (measured["stages"]["total_s"][side] for side in ("diffusers", "ours"))
    yield f"| prompt to MP4 bytes | {ms(theirs)} | {ms(ours)} | {theirs / ours:.1f} |"
    peak = measured["peak_gib"]
    yield f"| peak GPU memory | {peak['diffusers']:.1f} GiB | {peak['ours']:.1f} GiB |"


def plain_diffusers() -> Iterator[str]:
    stage = {name: seconds["diffusers"] for name, seconds in results("engine_h200")["stages"].items()}
    yield f"takes {ms(stage['denoise_forward_s'])} in plain diffusers and one VAE decode to host memory {ms(stage['decode_s'])}"
    yield f"half of the clip's {ms(stage['total_s'])} is decoding"


def cold_start_h200() -> Iterator[str]:
    measured = results("cold_start_h200")
    loading = {row.get("way", row.get("step")): row for row in measured["loading"]}
    layers_gib = loading["parts of a load"]["pinned_bytes"] / GIB
    yield f"| {measured['gpu_weights_bytes'] / GIB:.1f} GiB of denoiser and VAE, {layers_gib:.1f} GiB of the text encoder's"
    yield f"p50 {measured['resume_probe_s']['p50']:.2f} s, p95 {measured['resume_probe_s']['p95']:.2f} s | p95 1.0 s |"
    yield f"| {measured['first_clip_s']['p50']:.3f} s, {measured['second_clip_s']['p50']:.3f} s | within 10 % |"
    for way, label in (("prepared layout", "a prepared"), ("plain checkpoint", "the source")):
        row = loading[way]
        yield (
            f"| load {label} checkpoint, warm page cache / from the disk | "
            f"{row['warm_s']:.1f} s / {row['cold_s']:.1f} s |"
        )


def cold_start_h100() -> Iterator[str]:
    measured = results("cold_start_h100")
    starts = {row["start"]: row for row in measured["starts"]}
    text, clip, ready_s = measured["text"], measured["clip_s"], measured["readiness_s"]["gpu"]
    yield f"GPU and host memory | {measured['snapshot_bytes'] / 1e9:.2f} GB |"
    yield f"p50 {measured['resume_probe_s']['p50']:.2f} s, p95 {measured['resume_probe_s']['p95']:.2f} s | p95 0.60 s |"
    yield f"at 6 GB/s (computed) | {ready_s['3']:.2f} s, {ready_s['6']:.2f} s |"
    yield f"text encoder on the GPU | {clip['text_gpu']:.3f} s |"
    yield f"text encoder on the CPU's 16 cores | {clip['text_cpu']:.3f} s |"
    yield f"kernels in torch's cache on disk | {starts['cpu']['memory_back_to_step_s']:.1f} s"
    yield f"| {starts['plain']['total_s']:.1f} s, of which import {starts['plain']['import_s']:.1f} s |"
    yield f"on four threads | {text['32']:.2f} / {text['64']:.2f} / {text['128']:.2f} s |"
    yield f"memory in its snapshot | {text['snapshot_bytes'] / 1e9:.1f} GB |"


def text_on_four_threads() -> Iterator[str]:
    text = results("cold_start_h100")["text"]
    yield f"a prompt takes {text['32']:.2f} to {text['128']:.2f} s on four threads"


def resume_without_text() -> Iterator[str]:
    measured = results("cold_start_h100")
    yield f"on an H100: {measured['resume_probe_s']['p50']:.2f} s, p95 {measured['resume_probe_s']['p95']:.2f} s"
    yield f"at 3 GB/s: {measured['readiness_s']['gpu']['3']:.2f} s"


def kernels() -> Iterator[str]:
    cold, *others = results("kernels_h100")["starts"]
    yield f"| nothing compiled | – | {cold['warm_up_s']:.1f} s | {cold['compiler_s']['total_wall_time']:.1f} s |"
    for row in others:
        compiler_s = row["compiler_s"]["total_wall_time"]
        yield f"| {row['unpack_s']:.2f} s | {row['warm_up_s']:.1f} s | {compiler_s:.1f} s | {row['warm_again_s']:.2f} s |"


def refused_paths() -> Iterator[str]:
    label = {"": "nothing", "attention": "`attention=int8`", "any fast path": "any fast path"}
    for row in results("fallback_h100")["rows"]:
        if row["without"] in (*label, "fp8_linears", "compile_blocks", "fused_norms", "text_streamed"):
            name = label.get(row["without"], f"`{row['without']}`")
            yield f"| {name} | {ms(row['denoise_s'])} | {ms(row['decode_s'])} | {row['peak_gib']:.1f} GiB"


def whole_clips() -> Iterator[str]:
    measured = results("clips_h100")
    rows = {(row["recipe"], row["decoder"], row["to"]): row for row in measured["rows"]}
    for (recipe, decoder, to), row in rows.items():
        if to == "mp4":
            frames_s = rows[recipe, decoder, "frames"]["seconds"]
            goal = r" \(\d\.\d\d\)"
            yield rf"re:\| {decoder} \| {frames_s:.2f} s{goal} \| {row['seconds']:.2f} s{goal} \| {row['peak_gib']:.1f} GiB \|"
    for name, forward in measured["forward"].items():
        errors = f"{forward['error'] * 100:.1f}e-2 | {forward['error_peaked'] * 100:.1f}e-2"
        yield rf"re:\| {name} \| {forward['seconds']:.3f} s( \(\d\.\d+\))? \| {re.escape(errors)} \|"


def clips_to_mp4() -> Iterator[str]:
    rows = {
        (row["recipe"], row["decoder"], row["to"]): row["seconds"] for row in results("clips_h100")["rows"]
    }
    full, light, tiny = (f"{rows['fastwan-3step', decoder, 'mp4']:.2f}" for decoder in DECODERS)
    yield f"`fastwan-3step` took {full}, {light} and {tiny} s to an MP4"
    full, light, tiny = (f"{rows['fastwan-vsa-3step', decoder, 'mp4']:.2f}" for decoder in DECODERS)
    yield f"`fastwan-vsa-3step` {full}, {light} and {tiny} s"


def errors_of_a_forward() -> Iterator[str]:
    dense, sparse = (results("clips_h100")["forward"][name]["error"] * 100 for name in ("dense", "sparse"))
    yield f"({sparse:.1f}e-2 where the dense one has {dense:.1f}e-2)"


def decoders() -> Iterator[str]:
    rows = {row["decoder"]: row for row in results("decoders_h100")["rows"]}
    for decoder, label in (
        ("full", "full, bf16"),
        ("light", "light, bf16"),
        ("tiny", "tiny, fp16, compiled"),
    ):
        row = rows[decoder]
        seconds = " | ".join(ms(row[key]) for key in ("card_s", "frames_s", "mp4_s"))
        yield f"| {label} | {seconds} | {row['peak_gib']:.1f} GiB |"


def upscaling() -> Iterator[str]:
    rows = {(row["path"], row["batch"]): row for row in results("upscaling_h100")["upscaling"]}
    for batch in (1, 4, 9):
        plain, compiled = rows["plain", batch], rows["compiled", batch]
        yield f"| {batch} | {ms(plain['clip_s'])} | {ms(compiled['clip_s'])} | {compiled['peak_gib']:.2f} GiB |"


def resolutions() -> Iterator[str]:
    rows = results("resolutions_h100")["rows"]
    for small, large in zip(rows[::2], rows[1::2], strict=True):
        seconds = f"{small['seconds']:.2f} s | {large['seconds']:.2f} s | {large['ratio']:.2f} times"
        yield f"| {small['recipe']}, {small['decoder']} | {seconds} |"


def ratios_of_1080p() -> Iterator[str]:
    ratios = [row["ratio"] for row in results("resolutions_h100")["rows"] if row["size"] == "1920x1080"]
    yield f"{min(ratios):.2f} to {max(ratios):.2f} times one of 480p"


def setting(row: dict[str, Any]) -> tuple[str, int, int]:
    of = row["setting"]
    usual = of["params"] in ("", "mbtree=0") and not of["slices"]
    return (of["preset"], of["crf"], of["threads"]) if usual else ("", 0, 0)


def encoding() -> Iterator[str]:
    rows = {(setting(row), row["cores"]): row for row in results("encoding_16cores")["rows"]}
    for preset, crf, threads in (
        ("veryfast", 20, 4),
        *(("superfast", 21, n) for n in (4, 6, 8, 16)),
        ("ultrafast", 18, 4),
    ):
        on = {cores: rows[(preset, crf, threads), cores] for cores in (2, 4, 16)}
        seconds = " | ".join(ms(row["encode_s"]) for row in on.values())
        size = f"{on[16]['size_bytes'] / 1e6:.2f} MB | {on[16]['ssim'][0]:.3f}"
        yield f"| {preset}, {crf}, {threads} | {seconds} | {size} |"


def encoding_on_two_cores() -> Iterator[str]:
    rows = {setting(row): row for row in results("encoding_2cores")["rows"]}
    old, new = rows["veryfast", 18, 0], rows["superfast", 21, 8]
    yield f"an SSIM of {mean(new['ssim']):.4f} where the old one had {mean(old['ssim']):.4f}"
    size, cpu = (new[key] / old[key] for key in ("size_bytes", "cpu_s"))
    yield f"{size:.2f} times its bytes and {cpu:.2f} of its processor time: {ms(new['encode_s'])}"


def encoding_1080p() -> Iterator[str]:
    rows = {(setting(row), row["cores"]): row for row in results("encoding_1080p_16cores")["rows"]}
    for (preset, crf, threads), cores in rows:
        if cores == 2:
            two, sixteen = (rows[(preset, crf, threads), n] for n in (2, 16))
            # the setting in use has words behind its name
            yield (
                rf"re:\| {preset}, {crf}, {threads}[^|]* \| {two['encode_s']:.2f} s \| {sixteen['encode_s']:.2f} s \| "
                rf"{two['size_bytes'] / 3e6:.1f} MB \| {mean(two['ssim']):.4f} \|"
            )


def laptop() -> Iterator[str]:
    measured = results("laptop_cpu")
    seconds = measured["seconds"]
    text_s, step_s, decode_s = (seconds[key] for key in ("text_s", "step_s", "decode_and_encode_s"))
    yield (
        f"| {seconds['import_s']:.1f} s | {seconds['load_s']:.2f} s | {text_s:.3f} s | {step_s:.2f} s | {decode_s:.1f} s | "
        f"{text_s + 6 * step_s + decode_s:.1f} s | {measured['peak_memory_gib']:.2f} GiB |"
    )


def evaluation() -> Iterator[str]:
    measured = results("evaluation")
    others = measured["others"]
    judged = (
        "scene",
        "time_of_day",
        "weather",
        "action",
        "hair_colour",
        "clothes_colour",
        "hair_style",
        "face_whole",
    )
    for label, row in (
        ("as shipped: 6 steps, no guidance", measured),
        ("the same in 4 steps", others["student_4_steps"]),
        ("its teacher: 18 steps, guidance 3", others["teacher"]),
        ("its teacher: 6 steps, no guidance", others["teacher_without_guidance"]),
    ):
        shares = " | ".join("1.00" if row[key] == 1 else f"{row[key]:.3f}" for key in judged)
        yield f"| {label} | {shares} | {row['flicker_ratio']:.2f} |"


def upscaler() -> Iterator[str]:
    measured = results("upscaler")
    yield f"| {measured['psnr_bicubic_db']:.2f} dB | {measured['psnr_db']:.2f} dB |"
    yield f"| {measured['ssim_bicubic']:.3f} | {measured['ssim']:.3f} |"
    for key in ("edge_ratio", "slope_ratio", "flicker_ratio"):
        yield f"| 1 | {measured[key]:.2f} | {measured[f'{key}_of_truth']:.2f}, rendered clips |"
    yield f"luma bends {measured['squares']:.1f} times"


SAYS = [
    *((PERFORMANCE, sentence) for device in ("engine_h200", "engine_h100") for sentence in stages(device)),
    *(
        (PERFORMANCE, sentence)
        for measured in (
            cold_start_h200,
            cold_start_h100,
            kernels,
            refused_paths,
            whole_clips,
            decoders,
            upscaling,
            resolutions,
            encoding,
            encoding_on_two_cores,
            encoding_1080p,
            laptop,
        )
        for sentence in measured()
    ),
    *((MODEL_CARD, sentence) for measured in (evaluation, upscaler) for sentence in measured()),
    *(("README.md", sentence) for sentence in clips_to_mp4()),
    *(("docs/design.md", sentence) for sentence in resume_without_text()),
    *(("docs/adr/0004-the-vae-is-half-the-time.md", sentence) for sentence in plain_diffusers()),
    *(("docs/adr/0024-the-text-encoder-is-whole.md", sentence) for sentence in text_on_four_threads()),
    *(
        ("docs/adr/0027-sparse-attention-is-the-same-kernel.md", sentence)
        for sentence in errors_of_a_forward()
    ),
    *(("docs/adr/0028-1080p-is-480p-made-larger.md", sentence) for sentence in ratios_of_1080p()),
]


@pytest.mark.parametrize(("document", "sentence"), SAYS)
def test_a_document_says_what_the_results_file_says(document, sentence):
    """A sentence that begins with `re:` is a pattern."""
    pattern = sentence.removeprefix("re:") if sentence.startswith("re:") else re.escape(sentence)
    assert re.search(pattern, words_of(document)), f"{document} does not say: {sentence}"
