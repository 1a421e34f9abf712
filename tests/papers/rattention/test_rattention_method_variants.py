"""The variants of the ablation: each against its own equation written naively, its cache, its gradients, its errors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from orchard.kernels.residual import feature_map
from orchard.kernels.residual.naive import residual_mask
from orchard.nn import Packed, RMSNorm, attention, window_mask
from orchard.papers.rattention.method import recurrences
from orchard.papers.rattention.method.attention import RAttention
from orchard.papers.rattention.method.variants import (
    GatedDelta,
    HeadSplit,
    JointDenominator,
    OwnProjections,
    RandomWindow,
    ScalarDecay,
    SharedNorm,
    Taylor,
    Variant,
    taylor_dim,
    taylor_features,
    taylor_rank,
)

DIM, HEADS, KV_HEADS, HEAD_DIM, TIME = 24, 4, 2, 8, 21
CASES = [
    (Variant, {}),
    (Variant, {"delay": 0}),
    (Variant, {"delay": 2}),
    (Variant, {"delay": 9}),
    (Variant, {"use_learned_init": True, "use_qk_scale": True}),
    (Variant, {"feature_map": "elu"}),
    (Variant, {"feature_map": "half_softmax"}),
    (Variant, {"branch_rotary": True}),
    (Variant, {"branch_qk_norm": True}),
    (OwnProjections, {}),
    (SharedNorm, {}),
    (JointDenominator, {}),
    (Taylor, {}),
    (ScalarDecay, {}),
    (ScalarDecay, {"delay": 1, "feature_map": "relu"}),
    (GatedDelta, {}),
    (RandomWindow, {"windows": [1, 3]}),
    (HeadSplit, {}),
]
NAMES = [f"{kind.__name__}{'-'.join(['', *map(str, fields)])}{fields.get('delay', '')}" for kind, fields in CASES]
each = pytest.mark.parametrize(("kind", "fields"), CASES, ids=NAMES)


def layer(kind: type = Variant, **fields):
    """A layer with gains that are not one; window 3 unless given."""
    cfg = kind.Config(dim=DIM, num_heads=HEADS, num_kv_heads=KV_HEADS, head_dim=HEAD_DIM, window=3, qk_norm=RMSNorm.Config(),
                      output_init_std=0.2, chunk_size=5)  # fmt: skip
    module = cfg.set(**fields).build()
    for name, parameter in module.named_parameters():
        if "gain" in name or name in ("q_scale", "k_scale"):
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
        elif name in ("window_share", "branch_gate.weight"):
            torch.nn.init.normal_(parameter)
    return module


def projected(module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(p(x).unflatten(-1, (-1, HEAD_DIM)) for p in (module.q_proj, module.k_proj, module.v_proj))


def placed(module, q: Tensor, k: Tensor, norm: bool = True, rotate: bool = True) -> tuple[Tensor, Tensor]:
    positions = torch.arange(q.shape[1])
    if rotate:
        q, k = module.rotary(q, positions), module.rotary(k, positions)
    return (module.q_norm(q), module.k_norm(k)) if norm else (q, k)


def wide(x: Tensor, heads: int = HEADS) -> Tensor:
    return x.repeat_interleave(heads // x.shape[2], dim=2)


def quadratic(fq: Tensor, fk: Tensor, v: Tensor, delay: int) -> Tensor:
    """(phi(q) phi(k)^T [s <= t - delay]) v by one mask."""
    scores = torch.einsum("bthf,bshf->bhts", fq, wide(fk, fq.shape[2])) * residual_mask(fq.shape[1], delay - 1)
    return torch.einsum("bhts,bshd->bthd", scores, wide(v, fq.shape[2]))


def window_branch(module, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attention(*placed(module, q, k), v, module.window, backend="naive")


def reference(module, x: Tensor) -> Tensor:
    """The equation of each variant, naively."""
    q, k, v = projected(module, x)
    if isinstance(module, HeadSplit):
        swa = window_branch(module, q, k, v)[:, :, : HEADS // 2]
        la = quadratic(feature_map(q), feature_map(wide(k)), wide(v), 0)[:, :, HEADS // 2 :]
        return module.o_proj(module.output_norm(torch.cat([swa, la], dim=2)).flatten(-2))
    name, delay = module.feature_map, module.delay
    fq, fk = placed(module, q, k, module.branch_qk_norm, module.branch_rotary)
    if isinstance(module, OwnProjections):
        fq, fk = (p(x).unflatten(-1, (-1, HEAD_DIM)) for p in (module.branch_q, module.branch_k))
    if module.q_scale is not None:
        fq, fk = fq * module.q_scale, fk * module.k_scale
    if isinstance(module, Taylor):
        similarity = torch.einsum("bthr,bshr->bhts", *(wide(a[..., : module.rank]) for a in (q, k))) / module.rank**0.5
        rla = torch.einsum("bhts,bshd->bthd", (1 + similarity + similarity**2 / 2) * residual_mask(TIME, 3), wide(v))
    elif isinstance(module, ScalarDecay):
        gates = module.branch_gate(x).unflatten(-1, (KV_HEADS, -1)).sigmoid()
        shape = (2, TIME - delay)
        if isinstance(module, GatedDelta):
            fq, fk, beta = F.normalize(q, dim=-1), F.normalize(k, dim=-1), gates[..., 1]
        else:
            fq, fk, beta = feature_map(q, name), feature_map(k, name), torch.zeros(2, TIME, KV_HEADS)
        read = TIME - delay
        late, _ = recurrences.recurrent(
            fq[:, delay:],
            fk[:, :read],
            v[:, :read],
            gates[:, :read, :, 0].log(),
            beta[:, :read] if module.extra == 2 else None,
        )
        assert late.shape[:2] == shape
        rla = F.pad(late, (0, 0, 0, 0, delay, 0))
    else:
        rla = quadratic(feature_map(fq, name), feature_map(fk, name), v, delay)
        if module.init_k is not None:
            state = torch.einsum("nhf,nhd->hfd", feature_map(module.init_k, name), module.init_v)
            rla = rla + torch.einsum("bthf,hfd->bthd", feature_map(fq, name), state.repeat_interleave(2, dim=0))
    if isinstance(module, JointDenominator):
        places = torch.arange(TIME)
        scores = torch.einsum("bthd,bshd->bhts", *(wide(a) for a in placed(module, q, k))) / HEAD_DIM**0.5
        scores = scores.masked_fill(~window_mask(places, places, 3), -torch.inf)
        near = (scores - scores.amax(-1, keepdim=True)).exp()
        rest = torch.einsum("bthf,bshf->bhts", feature_map(q), wide(feature_map(k))) * residual_mask(TIME, 3)
        share = module.window_share.sigmoid()[:, None, None]
        weights = share * near + (1 - share) * rest
        return module.o_proj(
            torch.einsum("bhts,bshd->bthd", weights / weights.sum(-1, keepdim=True), wide(v)).flatten(-2)
        )
    swa = window_branch(module, q, k, v)
    if isinstance(module, SharedNorm):
        return module.o_proj(module.norm(swa + rla).flatten(-2))
    return module.o_proj((module.swa_norm(swa) + module.rla_norm(rla)).flatten(-2))


def test_every_kind_of_variant_has_a_case():
    known, kinds = {Variant}, [Variant]
    while kinds:
        kinds = [below for kind in kinds for below in kind.__subclasses__()]
        known.update(kinds)
    assert {kind for kind, _ in CASES} == known


@each
def test_variant_is_its_equation(kind, fields):
    module, x = layer(kind, **fields).eval(), torch.randn(2, TIME, DIM, requires_grad=True)
    found, expected = module(x), reference(module, x)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    weight = torch.linspace(0, 7, found.numel()).cos().view_as(found)
    inputs = [x, *module.parameters()]
    grads = [torch.autograd.grad((y * weight).sum(), inputs, allow_unused=True) for y in (found, expected)]
    for name, ours, theirs in zip(["x", *dict(module.named_parameters())], *grads, strict=True):
        assert ours is not None, f"{name} does not learn"
        scale = float(theirs.abs().max())
        torch.testing.assert_close(
            ours / scale, theirs / scale, atol=2e-4, rtol=1e-3, msg=lambda text, n=name: f"{n}: {text}"
        )


@torch.no_grad()
@each
def test_cache_equals_the_whole_for_every_split(kind, fields):
    module, x = layer(kind, **fields).eval(), torch.randn(2, TIME, DIM)
    expected = module(x)
    for pieces in ([1] * TIME, [TIME], [2, 1, TIME - 3], [7, 2, 1, 1, TIME - 11], [*[1] * (TIME - 5), 5]):
        cache = module.new_cache(2, TIME, device="cpu", dtype=torch.float32)
        held = cache.bytes()
        found = torch.cat([module(piece, cache) for piece in x.split(pieces, dim=1)], dim=1)
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
        assert (cache.position, cache.bytes()) == (TIME, held)
    assert module.cache_bytes(TIME, 4) == held / 2  # a batch of two


@torch.no_grad()
@each
def test_half_precision_keeps_an_fp32_state(kind, fields):
    module, x = layer(kind, **fields).eval(), torch.randn(2, TIME, DIM)
    expected = module(x)
    scale = expected.abs().max()
    with torch.autocast("cpu", torch.bfloat16):
        assert ((module(x) - expected) / scale).abs().max() < 0.1
    module = module.bfloat16()
    cache = module.new_cache(2, TIME, device="cpu", dtype=torch.bfloat16)
    found = torch.cat([module(piece, cache) for piece in x.bfloat16().split([9, 1, 11], dim=1)], dim=1)
    assert (found.dtype, cache.k.dtype, cache.state.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    assert ((found - expected) / scale).abs().max() < 0.15


@each
def test_variant_is_causal_and_refuses_what_it_cannot_do(kind, fields):
    module, x = layer(kind, **fields).eval(), torch.randn(1, 15, DIM, requires_grad=True)
    (grad,) = torch.autograd.grad(module(x)[0, 9].sum(), x)
    assert not grad[0, 10:].any()
    blind = {9: [1, 2, 3, 4, 5]}.get(fields.get("delay"), [])  # the gap that neither branch reads
    assert [t for t in range(10) if not grad[0, t].any()] == blind
    packed = Packed(torch.tensor([0, 15]))
    with pytest.raises(ValueError, match=rf"{kind.__name__} does not take packed documents"):
        module(x, packed=packed)
    other = RAttention.Config(dim=DIM, num_heads=HEADS, num_kv_heads=KV_HEADS, window=3).build()
    with pytest.raises(TypeError, match=r"got a ResidualCache: make the cache with its own new_cache"):
        module(x, other.new_cache(1, 9, device="cpu", dtype=torch.float32))
    with pytest.raises(ValueError, match="both must be at least 1"):
        module.new_cache(1, 0, device="cpu", dtype=torch.float32)
    assert module.flops_per_token(64) > 0


def test_unchanged_variant_is_the_layer():
    torch.manual_seed(1)
    ours = layer(Variant)
    torch.manual_seed(1)
    plain = layer(RAttention)
    x = torch.randn(2, 33, DIM)
    torch.testing.assert_close(ours(x), plain(x))
    assert ours.cache_bytes(33, 2) == plain.cache_bytes(33, 2)
    assert ours.flops_per_token(33) == plain.flops_per_token(33)


def test_random_window_is_a_function_of_the_batch_seed():
    module, x = layer(RandomWindow, windows=[0, 1, 5]).train(), torch.randn(1, 12, DIM)
    drawn = []
    for seed in range(8):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        window, delay = module.reach()
        assert delay == window + 1
        assert torch.equal(torch.get_rng_state(), before)  # nothing is drawn from the stream that dropout would use
        torch.rand(3)
        assert module.reach() == (window, delay)  # every layer of the batch, however much was drawn in between
        drawn.append(window)
        fixed = layer(RAttention, window=window)
        fixed.load_state_dict(module.state_dict())
        torch.testing.assert_close(module(x), fixed(x))
    assert set(drawn) == {0, 1, 5}
    assert module.eval().reach() == (3, 4)


def test_taylor_features_are_the_second_order_of_exp():
    q, k = torch.randn(2, 3, 5, dtype=torch.float64)
    similarity = (q * k).sum(-1) / 5**0.5
    torch.testing.assert_close((taylor_features(q) * taylor_features(k)).sum(-1), 1 + similarity + similarity**2 / 2)
    assert taylor_features(q).shape[-1] == taylor_dim(5) == 21
    assert [taylor_rank(d) for d in (8, 16, 64, 128)] == [4, 6, 14, 21]
    assert all(taylor_dim(taylor_rank(d)) <= 2 * d < taylor_dim(taylor_rank(d) + 1) for d in (8, 16, 64, 128))


def test_joint_denominator_starts_as_a_window_alone():
    module, x = layer(JointDenominator), torch.randn(1, 4, DIM)
    q, k, v = projected(module, x)
    torch.testing.assert_close(module(x), module.o_proj(window_branch(module, q, k, v).flatten(-2)))


def test_decay_starts_with_memories_from_16_to_512_tokens():
    module = ScalarDecay.Config(dim=DIM, num_heads=4, num_kv_heads=4, window=3).build()
    keep = module.branch_gate.bias.sigmoid()
    torch.testing.assert_close(1 / (1 - keep), torch.logspace(4, 9, 4, base=2.0), atol=0, rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (Variant, {"window": -1}, "Variant.Config.window is -1: use RAttention"),
        (Variant, {"delay": -1}, "delay is -1: 0 reads the current token"),
        (Variant, {"branch_rotary": True, "rotary": None}, "branch_rotary needs rotary"),
        (Variant, {"branch_qk_norm": True, "qk_norm": None}, "branch_qk_norm needs qk_norm"),
        (SharedNorm, {"output_norm": None}, "output_norm is None"),
        (JointDenominator, {"feature_map": "identity"}, "features above zero; use 'softmax'"),
        (Taylor, {"feature_map": "relu"}, "Taylor.Config.feature_map is 'relu', but has no effect here: drop it"),
        (GatedDelta, {"use_learned_init": True}, "use_learned_init is True, but has no effect"),
        (ScalarDecay, {"use_qk_scale": True}, "use_qk_scale is True, but has no effect"),
        (JointDenominator, {"use_qk_scale": True}, "use_qk_scale is True, but has no effect"),
        (RandomWindow, {}, r"windows is \[\]: give left contexts"),
        (RandomWindow, {"windows": [1], "delay": 3}, "leave it None"),
        (HeadSplit, {"window": None}, "give the tokens of left context"),
        (HeadSplit, {"num_kv_heads": 1}, "num_kv_heads is 1: it must be even"),
    ],
)  # fmt: skip
def test_bad_configs_say_what_to_do(kind, fields, message):
    with pytest.raises(ValueError, match=message):
        layer(kind, **fields)
