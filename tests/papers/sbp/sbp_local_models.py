"""Tiny causal language models with random weights and a tokenizer, written to a folder as Hugging Face does."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def save_tokenizer(folder: Path, **special: str) -> Any:
    """A byte-level tokenizer of 256 letters and its special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=inner, **special)
    made.save_pretrained(folder)
    return made


def save_model(folder: Path, kind: str = "llama", positions: int = 256) -> Path:
    """``llama`` has weights of its own for the output and special tokens bos and eos, ``gpt2`` ties them and has one for both."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model: Any
    if kind == "llama":
        save_tokenizer(folder, bos_token="<s>", eos_token="</s>")
        model = LlamaForCausalLM(LlamaConfig(
            vocab_size=264, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=positions,
        ))  # fmt: skip
    else:
        save_tokenizer(folder, eos_token="<|endoftext|>")
        model = GPT2LMHeadModel(GPT2Config(vocab_size=257, n_embd=32, n_layer=2, n_head=4, n_positions=positions))
    model.save_pretrained(folder)
    return folder
