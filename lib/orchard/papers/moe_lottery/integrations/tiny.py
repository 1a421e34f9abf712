"""Tiny checkpoints with random weights, of every model type that is read, and the invariants that they check.

Weights are drawn wider than at the start of a training, so that routers choose with conviction and logits are far apart.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from orchard.papers.moe_lottery.integrations.checkpoint import open_checkpoint
from orchard.papers.moe_lottery.integrations.families import FAMILIES, routers, statistics_of
from orchard.papers.moe_lottery.integrations.layerwise import DEFAULT, score_checkpoint
from orchard.papers.moe_lottery.integrations.prune import check_plan, load_pruned, write_pruned
from orchard.papers.moe_lottery.method.criteria import score_table
from orchard.papers.moe_lottery.method.dropping import ExpertsError, drop_experts, logits_of, masked
from orchard.pretrained.folder import import_transformers, load_model, quiet

VOCAB = 257

COMMON: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": 256,
    "num_experts_per_tok": 2, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
LATENT: dict[str, Any] = {
    "intermediate_size": 48, "moe_intermediate_size": 24, "n_routed_experts": 8, "n_shared_experts": 1,
    "first_k_dense_replace": 1, "n_group": 2, "topk_group": 1, "num_key_value_heads": 4,
    "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
}  # fmt: skip
QWEN: dict[str, Any] = {
    "intermediate_size": 48, "moe_intermediate_size": 24, "num_experts": 8, "num_key_value_heads": 2, "mlp_only_layers": [1],
}  # fmt: skip
GRANITE: dict[str, Any] = {
    "intermediate_size": 24, "num_local_experts": 8, "num_key_value_heads": 2, "tie_word_embeddings": True,
    "embedding_multiplier": 3.0, "residual_multiplier": 0.5, "attention_multiplier": 0.2, "logits_scaling": 2.0,
}  # fmt: skip
YARN: dict[str, Any] = {
    "rope_type": "yarn", "rope_theta": 150000.0, "factor": 8.0, "original_max_position_embeddings": 32,
}  # fmt: skip
SIZES: dict[str, tuple[str, dict[str, Any]]] = {  # model type -> class of transformers, arguments of its config
    "mixtral": ("Mixtral", {"intermediate_size": 24, "num_local_experts": 8, "num_key_value_heads": 2, "sliding_window": 16}),
    "olmoe": ("Olmoe", {"intermediate_size": 24, "num_experts": 8, "num_key_value_heads": 2}),
    "qwen2_moe": ("Qwen2Moe", QWEN | {
        "shared_expert_intermediate_size": 24, "use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}),
    "qwen3_moe": ("Qwen3Moe", QWEN | {"head_dim": 8, "norm_topk_prob": True}),
    "deepseek_v2": ("DeepseekV2", LATENT | {"topk_method": "group_limited_greedy"}),
    "deepseek_v3": ("DeepseekV3", LATENT | {"num_nextn_predict_layers": 0}),
    "gpt_oss": ("GptOss", {
        "intermediate_size": 24, "num_local_experts": 8, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 16,
        "rope_parameters": YARN, "swiglu_limit": 1.0}),
    "granitemoe": ("GraniteMoe", GRANITE),
    "granitemoeshared": ("GraniteMoeShared", GRANITE | {"shared_intermediate_size": 24}),
    "phimoe": ("Phimoe", {
        "intermediate_size": 24, "num_local_experts": 8, "num_key_value_heads": 2, "attention_bias": True, "lm_head_bias": True,
        "router_jitter_noise": 0.3}),
}  # fmt: skip


def tiny_model(model_type: str, seed: int = 0, **changes: Any) -> Any:
    """A causal language model of `transformers` with 3 layers, 8 experts and random weights; `changes` are those of its config."""
    if model_type not in FAMILIES:
        raise ExpertsError(f"no tiny model of the type {model_type!r}: choose one of {', '.join(FAMILIES)}")
    auto = import_transformers()
    name, sizes = SIZES[model_type]
    config = getattr(auto, f"{name}Config")(**(COMMON | sizes | changes))
    model = getattr(auto, f"{name}ForCausalLM")(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, value in model.state_dict().items():
            spread = 0.1 if key.endswith("e_score_correction_bias") else 0.3
            noise = torch.randn(value.shape, generator=generator) * spread
            value.copy_(1 + noise if "norm" in key else noise)
    return model.eval()


def save_tiny(folder: str | Path, model_type: str, seed: int = 0, *, fused: bool = False, **changes: Any) -> Path:
    """A tiny checkpoint in `folder`: experts one by one, or `fused`."""
    model = tiny_model(model_type, seed, **changes)
    with quiet():
        model.save_pretrained(folder, save_original_format=not fused, max_shard_size="64KB")
    return Path(folder)


@torch.no_grad()
def invariants(seed: int = 0) -> Iterator[tuple[str, str, float]]:
    """M15 on the layouts of Hugging Face: part, unit, and the largest relative difference.

    Per model type and layout on the disk: logits of the sliced model against the masked one (where `drop_experts` knows the
    model), of the pruned checkpoint that stock `transformers` loads, of a padded one that `load_pruned` loads, and scores layer
    by layer against the whole model.
    """
    for model_type in FAMILIES:
        for fused in (False, True) if model_type != "gpt_oss" else (True,):
            yield from _differences(model_type, seed, fused)


def _differences(model_type: str, seed: int, fused: bool) -> Iterator[tuple[str, str, float]]:
    generator = torch.Generator().manual_seed(seed + 1)
    tokens = torch.randint(0, VOCAB, (3, 21), generator=generator)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = open_checkpoint(save_tiny(Path(folder) / "full", model_type, seed, fused=fused))
        unit = f"{model_type}, {checkpoint.layout}"
        mixtures, model = checkpoint.mixtures, load_model(checkpoint.folder)
        orders = [torch.randperm(layer.num_experts, generator=generator).tolist() for layer in mixtures]
        groups = mixtures[0].groups
        size = mixtures[0].num_experts // groups
        equal = {p: [next(e for e in order if e // size == g) for g in range(groups)] for p, order in enumerate(orders)}
        plan, want = check_plan(mixtures, equal, orders), _masked(model, tokens, equal)
        scores = score_table(statistics_of(model, tokens.split(2), VOCAB), DEFAULT)
        layers = score_checkpoint(checkpoint, tokens, batch_size=2, scratch=folder).layers
        pairs = [(layer.scores[name], scores[name][layer.place]) for layer in layers for name in DEFAULT]
        yield "scores layer by layer", unit, max(gap(found, wanted) for found, wanted in pairs)
        (written := Path(folder) / "equal").mkdir()
        write_pruned(checkpoint, plan, written)
        yield "pruned checkpoint in transformers", unit, gap(logits_of(load_model(written), tokens), want)
        if groups == 1:
            unequal = {place: order[: 1 + place % 2 * 2] for place, order in enumerate(orders)}
            (written := Path(folder) / "padded").mkdir()
            write_pruned(checkpoint, check_plan(mixtures, unequal, orders), written)
            padded = logits_of(load_pruned(written), tokens)
            yield "padded checkpoint, masked", unit, gap(padded, _masked(model, tokens, unequal))
        if not hasattr(mixtures[0].block, "gate"):
            return
        drop_experts(model, equal)
        yield "slice against mask", unit, gap(logits_of(model, tokens), want)
        with quiet():
            model.save_pretrained(Path(folder) / "again", save_original_format=not fused)
        again = load_model(Path(folder) / "again")
        yield "save and reload", unit, gap(logits_of(again, tokens), logits_of(model, tokens))


def _masked(model: Any, tokens: Tensor, dropped: dict[int, list[int]]) -> Tensor:
    with masked(routers(model), dropped):
        return logits_of(model, tokens)


def gap(found: Tensor, wanted: Tensor) -> float:
    """Largest absolute difference over the largest finite absolute value; infinite where one of the two is not finite alone."""
    found, wanted = found.detach().double().cpu(), wanted.detach().double().cpu()
    finite = wanted.isfinite()
    if not torch.equal(finite, found.isfinite()) or not torch.equal(found[~finite], wanted[~finite]):
        return float("inf")
    if not finite.any():
        return 0.0
    scale = float(wanted[finite].abs().max())
    return float((found[finite] - wanted[finite]).abs().max()) / (scale if scale > 0 else 1.0)
