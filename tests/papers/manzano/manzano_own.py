"""Pictures with captions in a folder, and the smallest towers and language models of others, with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (20, 40, 230)}


def picture_folder(folder: Path, count: int = 120, side: int = 26) -> Path:
    """PNGs and JPEGs of a square of one colour on another, with `metadata.jsonl`."""
    folder.mkdir(parents=True)
    random, rows = np.random.default_rng(0), []
    for i in range(count):
        ground, figure = random.choice(list(COLOURS), size=2, replace=False)
        pixels = np.full((side, side + i % 3, 3), COLOURS[ground], dtype=np.uint8)
        top, left = random.integers(side // 2, size=2)
        pixels[top : top + side // 2, left : left + side // 2] = COLOURS[figure]
        pixels[0, 0] = random.integers(256, size=3)  # no two are the same file
        name = f"{i}.jpg" if i % 2 else f"{i}.png"
        Image.fromarray(pixels).save(folder / name)
        rows.append({"file_name": name, "caption": f"a {figure} square on {ground}"})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def tower(folder: Path, kind: str, side: int = 24) -> Any:
    """A SigLIP beside its text model, a CLIP vision model alone, or a DINOv2 with registers: patches of 4 pixels, width 16."""
    import transformers as t

    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    seen = {**shape, "image_size": side, "patch_size": 4}
    model: Any
    if kind == "siglip":
        model = t.SiglipModel(t.SiglipConfig(vision_config=seen, text_config={**shape, "vocab_size": 9}))
    elif kind == "clip":
        model = t.CLIPVisionModel(t.CLIPVisionConfig(**seen))
        means = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25]}
        folder.mkdir(parents=True)
        (folder / "preprocessor_config.json").write_text(json.dumps(means), encoding="utf-8")
    else:
        model = t.Dinov2WithRegistersModel(t.Dinov2WithRegistersConfig(**seen))
    model.save_pretrained(folder)
    return model.eval()


def language_model(folder: Path, kind: str = "llama", positions: int = 128) -> Path:
    """A Llama whose embedding is tied (`llama-tied`) or not, a Qwen2 without bos, or a GPT-2, with a tokenizer of bytes."""
    import transformers as t
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = {"eos_token": "</s>"} | ({"bos_token": "<s>"} if kind.startswith("llama") else {})
    t.PreTrainedTokenizerFast(tokenizer_object=inner, **special).save_pretrained(folder)
    torch.manual_seed(0)
    shape = {
        "vocab_size": 260, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": positions, "tie_word_embeddings": kind != "llama", "bos_token_id": None,
        "eos_token_id": None,
    }  # fmt: skip
    model: Any
    if kind == "gpt2":
        model = t.GPT2LMHeadModel(
            t.GPT2Config(
                vocab_size=260, n_embd=16, n_layer=2, n_head=2, n_positions=positions, bos_token_id=None, eos_token_id=None
            )
        )  # fmt: skip
    elif kind == "qwen2":
        model = t.Qwen2ForCausalLM(t.Qwen2Config(**shape))
    else:
        model = t.LlamaForCausalLM(t.LlamaConfig(**shape))
    model.save_pretrained(folder)
    return folder
