"""Tiny checkpoints with random weights, of every model type that is read, and the invariants that they check.

Weights are drawn wider than at the start of a training, so that routers choose with conviction and logits are far apart.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from orchard.papers.moe_lottery.checkpoint import COUNT_KEYS, _transformers
from orchard.papers.moe_lottery.method import ExpertsError

VOCAB = 257

COMMON: dict[str, Any] = dict(
    vocab_size=VOCAB, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, max_position_embeddings=256,
    num_experts_per_tok=2, bos_token_id=None, eos_token_id=None, pad_token_id=None,
)  # fmt: skip
LATENT: dict[str, Any] = dict(
    intermediate_size=48, moe_intermediate_size=24, n_routed_experts=8, n_shared_experts=1, first_k_dense_replace=1, n_group=2,
    topk_group=1, kv_lora_rank=16, q_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8, num_key_value_heads=4,
)  # fmt: skip
QWEN: dict[str, Any] = dict(
    intermediate_size=48, moe_intermediate_size=24, num_experts=8, num_key_value_heads=2, mlp_only_layers=[1],
)  # fmt: skip
SIZES: dict[str, tuple[str, dict[str, Any]]] = {  # model type -> class of transformers, arguments of its config
    "mixtral": ("Mixtral", dict(intermediate_size=24, num_local_experts=8, num_key_value_heads=2, sliding_window=16)),
    "olmoe": ("Olmoe", dict(intermediate_size=24, num_experts=8, num_key_value_heads=2)),
    "qwen2_moe": ("Qwen2Moe", QWEN | dict(
        shared_expert_intermediate_size=24, use_sliding_window=True, sliding_window=16, max_window_layers=1)),
    "qwen3_moe": ("Qwen3Moe", QWEN | dict(head_dim=8, norm_topk_prob=True)),
    "deepseek_v2": ("DeepseekV2", LATENT | dict(topk_method="group_limited_greedy")),
    "deepseek_v3": ("DeepseekV3", LATENT | dict(num_nextn_predict_layers=0)),
}  # fmt: skip


def tiny_model(model_type: str, seed: int = 0, **changes: Any) -> Any:
    """A causal language model of `transformers` with 3 layers, 8 experts and random weights; `changes` are those of its config."""
    if model_type not in COUNT_KEYS:
        raise ExpertsError(f"no tiny model of the type {model_type!r}: choose one of {', '.join(COUNT_KEYS)}")
    auto = _transformers()
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
    model.save_pretrained(folder, save_original_format=not fused, max_shard_size="64KB")
    return Path(folder)
