"""The RAttention layer: its equation, its gradients, its cache."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from orchard.kernels.residual.naive import recurrent
from orchard.nn import Attention, Packed, RMSNorm, attention
from orchard.papers.rattention.method.attention import RAttention


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
    with pytest.raises(ValueError, match="keeps a state, which cannot be cut back: leave spare at 0"):
        layer(window=2).new_cache(1, 5, device="cpu", dtype=torch.float32, spare=1)
    with pytest.raises(ValueError, match="causal by its definition"):
        layer(window=2, causal=False)
    with pytest.raises(ValueError, match="a ResidualCache cannot be cut back to 0"):
        layer(window=2).new_cache(1, 5, device="cpu", dtype=torch.float32).cut(0)
    with pytest.raises(TypeError, match="RAttention got a RollingCache"):
        layer(window=2)(torch.randn(1, 1, 24), other.new_cache(1, 9, device="cpu", dtype=torch.float32))


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


def test_the_gain_of_the_residual_branch_may_start_small() -> None:
    """The paper's is 1; the window's norm stays as it is, and without norms there is nothing to set."""
    small = RAttention.Config(dim=32, num_heads=2, window=3, rla_gain=0.1).build()
    assert torch.equal(small.rla_norm.gain, torch.full_like(small.rla_norm.gain, 0.1))
    assert (small.swa_norm.gain == 1).all()
    assert (RAttention.Config(dim=32, num_heads=2, window=3).build().rla_norm.gain == 1).all()
    with pytest.raises(ValueError, match="without output_norm"):
        RAttention.Config(dim=32, num_heads=2, window=3, rla_gain=0.1, output_norm=None).build()
