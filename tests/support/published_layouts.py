"""The layouts in which Wan's checkpoints are published, in miniature: the tiny checkpoint's weights under their file names.

What each has is told by its public page and by logs of people who loaded it. The sizes alone are ours.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

Files = dict[str, bytes]
Tensors = Mapping[str, torch.Tensor]

BESIDE = {
    "README.md": b"---\nlicense: apache-2.0\n---\n",
    ".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n",
    "assets/comp_effic.png": b"x" * 3000,
    "transformer/diffusion_pytorch_model.fp16.safetensors": b"x" * 3000,
    "text_encoder/model.fp16-00001-of-00002.safetensors": b"x" * 3000,
    "text_encoder/pytorch_model.bin": b"x" * 3000,
    "vae/diffusion_pytorch_model.bin": b"x" * 3000,
}
"""What repositories have besides; no start reads it."""


def qad_fp8(tiny: Path) -> Files:
    """FastVideo/FastWan-QAD-FP8-1.3B: a `WanPipeline`, its transformer float32 in one file, Wan's text encoder."""
    return _common(tiny, "WanPipeline", flow_shift=3.0) | _model(tiny, "transformer", shards=1)


def fastwan21(tiny: Path) -> Files:
    """FastVideo/FastWan2.1-T2V-1.3B-Diffusers: a `WanDMDPipeline`, bfloat16, with a gate in each block."""

    def with_gates(tensors: Tensors) -> Tensors:
        gates = {
            name.replace("attn1.to_q", "to_gate_compress"): torch.zeros_like(tensor)
            for name, tensor in tensors.items()
            if ".attn1.to_q." in name
        }
        return {name: tensor.to(torch.bfloat16) for name, tensor in (tensors | gates).items()}

    return _common(tiny, "WanDMDPipeline", flow_shift=8.0) | _model(
        tiny, "transformer", shards=1, change=with_gates
    )


def wan21(tiny: Path) -> Files:
    """Wan-AI/Wan2.1-T2V-1.3B-Diffusers: float32, the transformer in two shards."""
    return _common(tiny, "WanPipeline", flow_shift=3.0) | _model(tiny, "transformer", shards=2)


def _common(tiny: Path, pipeline: str, *, flow_shift: float) -> Files:
    """Return what the three have alike: VAE, tokenizer, and a text encoder in five shards that hold one table."""
    index = json.loads((tiny / "model_index.json").read_text())
    index |= {"_class_name": pipeline, "tokenizer": ["transformers", "T5TokenizerFast"]}
    scheduler = json.loads((tiny / "scheduler/scheduler_config.json").read_text()) | {
        "flow_shift": flow_shift
    }
    return {
        "model_index.json": _json(index),
        "scheduler/scheduler_config.json": _json(scheduler),
        **_tokenizer(),
        **_model(tiny, "vae", shards=1),
        **_model(tiny, "text_encoder", shards=5, change=_one_table, tie_word_embeddings=False),
    }


def _one_table(tensors: Tensors) -> Tensors:
    names = ("shared.weight", "encoder.embed_tokens.weight")
    (table,) = (tensors[name] for name in names if name in tensors)
    return {"shared.weight": table} | {name: tensor for name, tensor in tensors.items() if name not in names}


def _model(
    tiny: Path,
    part: str,
    *,
    shards: int,
    change: Callable[[Tensors], Tensors] = dict,
    **config: object,
) -> Files:
    """Return a part's files: one, or as many shards and the index that names them."""
    (source,) = (tiny / part).glob("*.safetensors")
    tensors = dict(change(load_file(source)))
    given = json.loads((tiny / part / "config.json").read_text()) | config
    files = {f"{part}/config.json": _json(given)}
    if shards == 1:
        return files | {f"{part}/{source.name}": save(tensors, {"format": "pt"})}
    names = [f"{source.stem}-{number:05d}-of-{shards:05d}.safetensors" for number in range(1, shards + 1)]
    weight_map = {tensor: names[at * shards // len(tensors)] for at, tensor in enumerate(tensors)}
    for name in names:
        held = {tensor: tensors[tensor] for tensor, shard in weight_map.items() if shard == name}
        files[f"{part}/{name}"] = save(held, {"format": "pt"})
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    return files | {f"{part}/{source.name}.index.json": _json(index)}


def _tokenizer() -> Files:
    """Return a T5 tokenizer of pieces in its two forms; where both lie, `tokenizer.json` is read."""
    special = {"pad_token": "<pad>", "eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>"}
    pieces = [(token, 0.0) for token in special.values()] + [("▁", -2.0), ("▁a", -1.5)]
    pieces += [(letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyz,.-"]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.add_special_tokens(list(special.values()))
    config = special | {
        "tokenizer_class": "T5Tokenizer",
        "extra_ids": 0,
        "legacy": True,
        "model_max_length": 512,
        "sp_model_kwargs": {},
    }
    return {
        "tokenizer/tokenizer_config.json": _json(config),
        "tokenizer/special_tokens_map.json": _json(special),
        "tokenizer/tokenizer.json": tokenizer.to_str().encode(),
        "tokenizer/spiece.model": b"\n\x0e\n\x05<pad>" * 300,
    }


def _json(content: object) -> bytes:
    return json.dumps(content, indent=2).encode()
