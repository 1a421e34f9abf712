"""Tiny decoders with random weights of every layout that the wrapper knows, and folders of them with a tokenizer of bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

VOCAB = 264
LAYOUTS = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3")


def tiny(
    layout: str = "llama", width: int = 29, dim: int = 16, layers: int = 3, positions: int = 160, seed: int = 0
) -> Any:
    """A causal language model, in evaluation mode. The weights are large, so that a wrong mask shows in the logits."""
    import transformers as hf

    kinds = {
        "llama": (hf.LlamaConfig, hf.LlamaForCausalLM), "mistral": (hf.MistralConfig, hf.MistralForCausalLM),
        "qwen2": (hf.Qwen2Config, hf.Qwen2ForCausalLM), "qwen3": (hf.Qwen3Config, hf.Qwen3ForCausalLM),
        "gemma": (hf.GemmaConfig, hf.GemmaForCausalLM), "gemma2": (hf.Gemma2Config, hf.Gemma2ForCausalLM),
        "gemma3": (hf.Gemma3TextConfig, hf.Gemma3ForCausalLM),
    }  # fmt: skip
    config, model = kinds[layout]
    torch.manual_seed(seed)
    return model(config(
        vocab_size=VOCAB, hidden_size=dim, intermediate_size=width, num_hidden_layers=layers, num_attention_heads=2, num_key_value_heads=1,
        head_dim=8, max_position_embeddings=positions, initializer_range=0.2, bos_token_id=256, eos_token_id=257, pad_token_id=0,
    )).eval()  # fmt: skip


def tokenizer(chat: bool = False) -> Any:
    """A byte-level tokenizer of 256 letters, bos 256 and eos 257; with ``chat`` a template that has marks of its own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")
    if chat:
        made.chat_template = (
            "<s>{% for m in messages %}{{ m.role }}:{{ m.content }}{% if m.role == 'assistant' %}</s>{% else %}{{ '\n' }}{% endif %}"
            "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
        )
    return made


def save(folder: Path, model: Any, chat: bool = False) -> Path:
    """The model and the tokenizer as a folder."""
    model.save_pretrained(folder)
    tokenizer(chat).save_pretrained(folder)
    return folder


def rows(folder: Path, count: int = 24) -> Path:
    """Instructions of two domains with answers that follow from them, in files of train, validation and test."""
    folder.mkdir()
    for split, numbers in (
        ("train", range(count)),
        ("valid", range(count, count + 8)),
        ("test", range(count + 8, count + 9)),
    ):
        lines = []
        for i in numbers:
            word = "abcdefgh"[i % 8] * (1 + i % 3)
            lines.append({"domain": "upper", "instruction": f"Shout number {i}: {word}", "output": word.upper()})
            lines.append({"domain": "twice", "instruction": f"Repeat {word} ({i})", "output": word * 2})
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return folder
