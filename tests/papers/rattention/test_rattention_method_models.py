"""The local:global pattern and the arms: what they differ in, their published shapes, what they decode."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gpu_recipe import two_steps
from orchard.data import LocalText
from orchard.nn import Attention, Block, Decoder, Rotary
from orchard.papers.rattention.method import costs
from orchard.papers.rattention.method.attention import RAttention, ResidualCache, local_global
from orchard.papers.rattention.method.models import arm, arm_window, paper_model, parse_arm
from orchard.train import TrainLM
from toy_runs import corpus

SMALL = {"dim": 24, "num_layers": 4, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "ffn_dim": 32, "vocab_size": 31}
ARMS = ("full_rope", "full_rnope", "swa@4", "rattn@4", "la", "swa_mem@4", "swa_flops@4")


def test_local_global_pattern():
    local, wide = Block.Config(attention=RAttention.Config(window=3)), Block.Config()
    layers = local_global(local, wide, 9)
    assert [isinstance(x.attention, RAttention.Config) for x in layers] == [
        layer_number % 4 != 0 for layer_number in range(1, 10)
    ]
    assert len({id(x) for x in layers}) == 9
    assert not any(isinstance(x.attention, RAttention.Config) for x in local_global(local, wide, 3, period=1))
    with pytest.raises(ValueError, match="period=0"):
        local_global(local, wide, 4, period=0)


def test_arms_differ_in_nothing_but_their_local_layers():
    models = {name: arm(name, **SMALL, seq_len=32).build() for name in ARMS}
    windows = {name: [x.attention.window for x in model.layers] for name, model in models.items()}
    extra = 8 + 4 + 24  # d + d/G + 1.5 C
    assert windows == {
        "full_rope": [None] * 4,
        "full_rnope": [None] * 4,
        "swa@4": [3, 3, 3, None],
        "rattn@4": [3, 3, 3, None],
        "la": [-1, -1, -1, None],
        "swa_mem@4": [3 + 8] * 3 + [None],
        "swa_flops@4": [3 + extra] * 3 + [None],
    }
    for name, model in models.items():
        rotary = [x.attention.rotary is not None for x in model.layers]
        assert rotary == [name != "la"] * 3 + [name == "full_rope"]
        assert model.layers[3].attention.q_norm is not None
    base = models["swa@4"].num_parameters()
    gains = {"rattn@4": 2 * 4 * 8 * 3, "la": 4 * 8 * 3 - 2 * 8 * 3}  # la has no qk-norm to learn
    assert {name: model.num_parameters() - base for name, model in models.items()} == {
        name: gains.get(name, 0) for name in ARMS
    }


@torch.no_grad()
def test_matched_arms_match():
    ours, memory, compute = (arm(name, **SMALL).build() for name in ("rattn@4", "swa_mem@4", "swa_flops@4"))
    state = ours.cache_bytes(2000, 2) - arm("swa@4", **SMALL).build().cache_bytes(2000, 2)
    assert state == 2 * (memory.cache_bytes(2000, 2) - arm("swa@4", **SMALL).build().cache_bytes(2000, 2))  # fp32, bf16
    assert ours.flops_per_token(100_000) == pytest.approx(compute.flops_per_token(100_000), rel=1e-3)


def test_arm_takes_fields_of_the_layer():
    cfg = arm("rattn@4", **SMALL, feature_map="relu", output_norm=None)
    assert cfg.layers[0].attention.feature_map == "relu"
    assert cfg.build().layers[0].attention.rla_norm is None
    assert arm("swa@4", **SMALL, qk_norm=False).build().layers[0].attention.q_norm is None


@pytest.mark.parametrize("name", ["rattn", "swa@", "swa@0", "swa@-4", "full_rope@8", "la@3", "mamba", "rattn@1.5", ""])
def test_unknown_arms(name):
    with pytest.raises(ValueError, match="is not known: use one of full_rope, full_rnope, la, swa@W"):
        parse_arm(name)


def test_arms_that_compare_nothing_are_errors():
    with pytest.raises(ValueError, match="covers all of seq_len=16"):
        arm("swa@17", **SMALL, seq_len=16)
    assert arm_window("swa@16", 8, 2) == 15
    with pytest.raises(ValueError, match="has no RAttention layer: drop feature_map"):
        arm("swa@4", **SMALL, feature_map="relu")
    with pytest.raises(ValueError, match="'7B' is not known: use one of 3B, 12B"):
        paper_model("7B")


@pytest.mark.parametrize(("size", "matmul"), [("3B", 2_877_292_544), ("12B", 12_582_912_000)])
def test_published_shapes_on_the_meta_device(size, matmul):
    with torch.device("meta"):
        model: Decoder = paper_model(size).build()
    shape = costs.SHAPES[size]
    assert model.num_parameters(embedding=False, norms=False) == matmul == shape.matmul_parameters
    kinds = [type(x.attention) for x in model.layers]
    assert kinds == [RAttention, RAttention, RAttention, Attention] * (shape.num_layers // 4)
    ours = model.layers[0].attention
    assert (ours.window, ours.rotary.theta, model.layers[3].attention.rotary) == (511, 5e5, None)
    flops = ours.flops_per_token(10**7) - Attention.flops_per_token(ours, 10**7)
    d, heads, groups = shape.head_dim, shape.num_heads, shape.num_heads // shape.num_kv_heads
    assert flops == pytest.approx(4 * heads * d * (d + d / groups + 1.5 * 64), rel=1e-4)
    assert model.cache_bytes(4096, 2) == costs.kv_budget(4096, 511, shape=shape).total


def test_rotary_of_arms_is_the_papers():
    assert arm("full_rope", **SMALL).layers[3].attention.rotary.theta == Rotary.Config(theta=5e5).theta
    assert isinstance(
        arm("la", **SMALL).build().new_cache(1, 4, device="cpu", dtype=torch.float32).layers[0], ResidualCache
    )


def test_an_arm_trains_as_on_a_gpu(tmp_path: Path) -> None:
    """In bf16, with a fused optimizer, clipped and compiled: an RAttention layer, a global one and the loss are one graph."""
    cfg = TrainLM.Config(
        model=arm("rattn@5", **SMALL | {"num_layers": 2}, period=2), seq_len=33, batch_size=2, steps=2, eval_windows=2,
        source=LocalText.Config(path=str(corpus(tmp_path))),
    )  # fmt: skip
    two_steps(cfg, tmp_path / "store")
