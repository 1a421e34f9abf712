"""The RAttention layer: its equation, its gradients, its cache; the local:global pattern and the arms."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from orchard.kernels.residual.naive import recurrent
from orchard.nn import Attention, Block, Decoder, Packed, RMSNorm, Rotary, attention
from orchard.papers.rattention.method import costs
from orchard.papers.rattention.method.attention import RAttention, ResidualCache, local_global
from orchard.papers.rattention.method.models import arm, arm_window, paper_model, parse_arm

SMALL = {"dim": 24, "num_layers": 4, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "ffn_dim": 32, "vocab_size": 31}
ARMS = ("full_rope", "full_rnope", "swa@4", "rattn@4", "la", "swa_mem@4", "swa_flops@4")


def layer(**fields) -> RAttention:
    cfg = RAttention.Config(dim=24, num_heads=4, num_kv_heads=2, head_dim=8, output_init_std=0.2).set(**fields)
    module = cfg.build()
    for part in module.modules():
        if isinstance(part, RMSNorm):
            torch.nn.init.uniform_(part.gain, 0.5, 1.5)
    return module


def test_layer_is_its_equation():
    module, x = layer(window=3, qk_norm=RMSNorm.Config()), torch.randn(2, 17, 24)
    q, k, v = (p(x).unflatten(-1, (-1, 8)) for p in (module.q_proj, module.k_proj, module.v_proj))
    positions = torch.arange(17)
    swa = attention(
        module.q_norm(module.rotary(q, positions)), module.k_norm(module.rotary(k, positions)), v, 3, backend="naive"
    )
    rla, _ = recurrent(q, k, v, 3)  # neither rotated nor normalised nor scaled

    def rms(o, gain):
        return o * (o.square().mean(-1, keepdim=True) + 1e-8).rsqrt() * gain

    o = rms(swa, module.swa_norm.gain) + rms(rla, module.rla_norm.gain)
    torch.testing.assert_close(module(x), module.o_proj(o.flatten(-2)), atol=1e-5, rtol=1e-5)


def test_norm_and_window_can_be_taken_away():
    x = torch.randn(1, 9, 24)
    plain, linear = layer(window=2, output_norm=None), layer(window=-1, output_norm=None)
    assert not any(isinstance(part, RMSNorm) for part in plain.modules())
    q, k, v = (p(x).unflatten(-1, (-1, 8)) for p in (linear.q_proj, linear.k_proj, linear.v_proj))
    torch.testing.assert_close(linear(x), linear.o_proj(recurrent(q, k, v, -1)[0].flatten(-2)))
    only = layer(window=-1, qk_norm=RMSNorm.Config())
    assert (only.rotary, only.q_norm, only.swa_norm) == (None, None, None)
    assert all(p.grad is not None for p in backward(only).parameters())


def backward(module: RAttention) -> RAttention:
    module(torch.randn(2, 11, 24)).square().sum().backward()
    return module


@pytest.mark.parametrize("window", [-1, 0, 3, 40])
def test_every_parameter_learns(window):
    module = backward(layer(window=window, qk_norm=RMSNorm.Config(), use_learned_init=True, use_qk_scale=True))
    used = {n for n, p in module.named_parameters() if p.grad is not None and p.grad.abs().max() > 1e-5}
    idle = {
        0: {"q_norm.gain", "k_norm.gain"},  # a softmax over one token is 1: what is left is rounding
        40: {"k_scale"},  # no key is ever folded
    }.get(window, set())
    assert used == {name for name, _ in module.named_parameters()} - idle


def test_causal():
    module, x = layer(window=3), torch.randn(1, 15, 24, requires_grad=True)
    (grad,) = torch.autograd.grad(module(x)[0, 8].sum(), x)
    assert grad[0, :9].abs().amax(dim=-1).gt(0).all()
    assert not grad[0, 9:].any()


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"use_learned_init": True, "use_qk_scale": True}, {"output_norm": None}])
@pytest.mark.parametrize("window", [-1, 0, 1, 4, 50])
def test_cache_equals_the_whole_for_every_split(window, options):
    module = layer(window=window, qk_norm=RMSNorm.Config(), **options)
    for scale in (module.q_scale, module.k_scale):
        if scale is not None:
            torch.nn.init.uniform_(scale, 0.5, 1.5)
    time = 3 * (window + 1) + 10 if window < 50 else 20
    x = torch.randn(2, time, 24)
    expected = module(x)
    for pieces in ([1] * time, [time], [2, 1, time - 3], [5, 2, 1, 1, time - 9], [*[1] * (time - 2), 2]):
        cache = module.new_cache(2, time, device="cpu", dtype=torch.float32)
        found = torch.cat([module(piece, cache) for piece in x.split(pieces, dim=1)], dim=1)
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)
        assert cache.position == time


@torch.no_grad()
def test_cache_is_constant_memory_with_an_fp32_state():
    module = layer(window=3).bfloat16()
    cache = module.new_cache(1, 1000, device="cpu", dtype=torch.bfloat16)
    assert (cache.k.dtype, cache.state.dtype) == (torch.bfloat16, torch.float32)
    assert cache.k.shape == (1, 4, 2, 8)  # w + 1 slots
    assert cache.state.shape == (1, 2, 16, 8)  # one per kv head
    held = cache.bytes()
    for _ in range(30):
        assert module(torch.randn(1, 1, 24).bfloat16(), cache).dtype == torch.bfloat16
    assert cache.bytes() == held
    assert module.cache_bytes(30, 2) == held
    assert module.cache_bytes(3, 2) == 3 * 2 * 2 * 8 * 2  # nothing has left the window
    assert layer(window=-1).cache_bytes(9, 2) == 2 * 16 * 8 * 4


@torch.no_grad()
def test_ring_holds_raw_keys():
    module, x = layer(window=2, qk_norm=RMSNorm.Config()), torch.randn(1, 7, 24)
    cache = module.new_cache(1, 7, device="cpu", dtype=torch.float32)
    for t in range(7):
        module(x[:, t : t + 1], cache)
    raw = module.k_proj(x).unflatten(-1, (-1, 8))
    assert cache.positions.tolist() == [6, 4, 5]
    torch.testing.assert_close(cache.k, raw[:, cache.positions])


def test_learned_start_is_a_state_of_128_tokens():
    module = layer(window=2, use_learned_init=True)
    assert module.init_k.shape == (128, 2, 8)
    expected = recurrent(module.init_k[None], module.init_k[None], module.init_v[None], -1)[1]
    torch.testing.assert_close(module.initial_state(), expected)
    assert layer(window=2).initial_state() is None


def test_bad_configs_say_what_to_do():
    with pytest.raises(ValueError, match=r"RAttention.Config.window is -2"):
        layer(window=-2)
    with pytest.raises(ValueError, match="full attention leaves no residual"):
        layer(window=None)
    with pytest.raises(ValueError, match="feature_map='cosine' is not known"):
        layer(window=2, feature_map="cosine")
    with pytest.raises(ValueError, match="num_heads is 4, num_kv_heads 3"):
        layer(window=2, num_kv_heads=3)
    with pytest.raises(ValueError, match="both must be at least 1"):
        layer(window=2).new_cache(0, 5, device="cpu", dtype=torch.float32)
    other = Attention.Config(dim=24, num_heads=4, num_kv_heads=2, window=2).build()
    with pytest.raises(TypeError, match="RAttention got a RollingCache"):
        layer(window=2)(torch.randn(1, 1, 24), other.new_cache(1, 9, device="cpu", dtype=torch.float32))


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


@torch.no_grad()
@pytest.mark.parametrize("name", ARMS)
def test_every_arm_decodes_what_it_computes(name):
    model = arm(name, **SMALL).build().eval()
    tokens = torch.randint(0, 31, (2, 23))
    cache = model.new_cache(2, 23, device="cpu", dtype=torch.float32)
    found = torch.cat([model(piece, cache) for piece in tokens.split([9, 1, 1, 5, 1, 6], dim=1)], dim=1)
    torch.testing.assert_close(found, model(tokens), atol=1e-4, rtol=1e-5)


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
    assert flops == pytest.approx(4 * heads * d * (d + d / groups + 1.5 * 64), rel=1e-4)  # section 3.7
    bf16_state = model.cache_bytes(4096, 2) - 2 * 128 * 128 * shape.num_kv_heads * 2 * (shape.num_layers * 3 // 4)
    assert bf16_state == costs.kv_bytes(shape, 4096, 511, costs.state_tokens(shape))


def test_rotary_of_arms_is_the_papers():
    assert arm("full_rope", **SMALL).layers[3].attention.rotary.theta == Rotary.Config(theta=5e5).theta
    assert isinstance(
        arm("la", **SMALL).build().new_cache(1, 4, device="cpu", dtype=torch.float32).layers[0], ResidualCache
    )


@pytest.mark.parametrize("window", [-1, 0, 5, 40])
def test_packed_documents_do_not_leak(window):
    """Outputs and gradients of each document are those it has alone; a NaN in one reaches no other."""
    ends = [0, 1, 12, 14, 47]
    packed = Packed(torch.tensor(ends))
    module = layer(window=window, qk_norm=RMSNorm.Config(), use_learned_init=True, use_qk_scale=True, chunk_size=4)
    x = torch.randn(1, ends[-1], 24, requires_grad=True)
    output = module(x, packed=packed)
    output.sin().sum().backward()
    for start, end in pairwise(ends):
        part = x.detach()[:, start:end].requires_grad_()
        alone = module(part)
        alone.sin().sum().backward()
        torch.testing.assert_close(output[:, start:end], alone, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(x.grad[:, start:end], part.grad, atol=5e-5, rtol=1e-3)
    poisoned = x.detach().clone()
    poisoned[:, 1:12] = float("nan")
    found = module(poisoned, packed=packed)[0]
    assert found.isnan().any(-1).nonzero().flatten().tolist() == list(range(1, 12))
