"""attention(): the window convention, the three backends against one another, the layer around it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from orchard.nn import Attention, RMSNorm, Rotary, attention, window_including_self, window_mask
from orchard.nn.attention import _mask, visible_keys


def qkv(time: int, heads: int, kv_heads: int, keys: int | None = None, dim: int = 8) -> list[Tensor]:
    shapes = [(2, time, heads, dim), (2, keys or time, kv_heads, dim), (2, keys or time, kv_heads, dim)]
    return [torch.randn(shape, requires_grad=True) for shape in shapes]


def run(inputs: list[Tensor], **options: Any) -> list[Tensor]:
    """The output, and the gradient of every input for a fixed random cotangent."""
    out = attention(*inputs, **options)
    cotangent = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    return [out, *torch.autograd.grad(out, inputs, cotangent)]


@pytest.mark.parametrize("window", [None, 0, 1, 3, 50])
def test_window_convention_token_by_token(window: int | None) -> None:
    q, k, v = qkv(time=7, heads=2, kv_heads=1)
    out = attention(q, k, v, window, backend="naive")
    for t in range(7):
        first = 0 if window is None else max(0, t - window)  # w tokens of left context, then the token itself
        seen = slice(first, t + 1)
        for head in range(2):
            weights = (k[:, seen, 0] @ q[:, t, head, :, None] / 8**0.5).softmax(dim=1)
            torch.testing.assert_close(out[:, t, head], (weights * v[:, seen, 0]).sum(dim=1))


@pytest.mark.parametrize("window", [None, 0, 2, 9])
def test_window_mask_and_the_count_of_visible_keys(window: int | None) -> None:
    positions = torch.arange(9)
    mask = window_mask(positions, positions, window)
    for t in range(9):
        assert mask[t].nonzero().flatten().tolist() == [i for i in range(t + 1) if window is None or t - i <= window]
    assert visible_keys(9, window) == mask.sum()


def test_window_is_what_torch_and_others_call_window_plus_one() -> None:
    q, k, v = qkv(time=11, heads=2, kv_heads=2)
    window = 3
    ones = torch.ones(11, 11, dtype=torch.bool)
    band = ones.tril() & ones.triu(1 - window_including_self(window))
    theirs = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), attn_mask=band).transpose(1, 2)
    for backend in ("naive", "sdpa", "banded"):
        torch.testing.assert_close(attention(q, k, v, window, backend=backend), theirs)


CASES = [
    # time, heads, kv heads, window
    (1, 2, 2, 0), (1, 2, 1, 5), (17, 4, 2, 0), (33, 4, 1, 1), (35, 2, 2, 15), (47, 4, 2, 16), (97, 4, 2, 31),
    (64, 2, 1, 32), (65, 2, 1, 33), (101, 3, 3, 40), (101, 3, 3, 99), (101, 3, 3, 100), (40, 4, 2, 1000),
]  # fmt: skip


@pytest.mark.parametrize("backend", ["sdpa", "banded", "auto"])
@pytest.mark.parametrize(("time", "heads", "kv_heads", "window"), CASES)
def test_backends_agree_with_the_naive_one(backend: str, time: int, heads: int, kv_heads: int, window: int) -> None:
    inputs = qkv(time, heads, kv_heads)
    for ours, naive in zip(run(inputs, window=window, backend=backend), run(inputs, window=window, backend="naive"),
                           strict=True):  # fmt: skip
        torch.testing.assert_close(ours, naive, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("backend", ["sdpa", "banded", "auto"])
@pytest.mark.parametrize("time", [1, 2, 33, 98])
def test_full_attention_backends(backend: str, time: int) -> None:
    inputs = qkv(time, heads=4, kv_heads=2)
    for ours, naive in zip(run(inputs, backend=backend), run(inputs, backend="naive"), strict=True):
        torch.testing.assert_close(ours, naive, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("backend", ["sdpa", "banded", "auto"])
@pytest.mark.parametrize(
    ("queries", "keys", "offset", "window"),
    [(1, 9, 8, None), (1, 9, 8, 3), (1, 9, 4, None), (5, 9, 4, None), (5, 12, 4, 2), (100, 107, 7, 7), (100, 120, 7, 0),
     (100, 130, 30, 40), (70, 200, 130, 20), (99, 103, 4, 33)],
)  # fmt: skip
def test_queries_at_an_offset(backend: str, queries: int, keys: int, offset: int, window: int | None) -> None:
    inputs = qkv(queries, heads=4, kv_heads=2, keys=keys)
    ours = run(inputs, window=window, query_offset=offset, backend=backend)
    naive = run(inputs, window=window, query_offset=offset, backend="naive")
    for a, b in zip(ours, naive, strict=True):
        torch.testing.assert_close(a, b, atol=2e-6, rtol=1e-5)


def test_values_of_another_width() -> None:
    q, k, _ = qkv(100, heads=4, kv_heads=2)
    v = torch.randn(2, 100, 2, 3)
    for backend in ("sdpa", "banded"):
        out = attention(q, k, v, 10, backend=backend)
        assert out.shape == (2, 100, 4, 3)
        torch.testing.assert_close(out, attention(q, k, v, 10, backend="naive"))


class Largest(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that any operation returned."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple) else (out,):
            if isinstance(x, Tensor):
                self.elements = max(self.elements, x.numel())
        return out


def test_banded_memory_is_linear_in_length_dense_memory_is_not() -> None:
    def largest(time: int, backend: str) -> int:
        with Largest() as seen:
            run(qkv(time, heads=2, kv_heads=2, dim=2), window=16, backend=backend)
        return seen.elements

    assert largest(1024, "banded") <= 2.1 * largest(512, "banded")
    assert largest(1024, "naive") == 4 * largest(512, "naive")


def test_auto_is_banded_for_long_windowed_sequences() -> None:
    q, k, v = qkv(512, heads=2, kv_heads=2, dim=2)
    with Largest() as seen:
        attention(q, k, v, 16)
    assert seen.elements < 512 * 512


def test_a_mask_made_in_inference_mode_serves_training() -> None:
    _mask.cache_clear()
    inputs = qkv(23, heads=2, kv_heads=2)
    with torch.inference_mode():
        attention(*inputs, 5, backend="sdpa")
    assert not _mask(
        23, 23, 5, 0, torch.device("cpu"), True
    ).is_inference()  # such a tensor may not be saved for backward
    assert _mask.cache_info().hits == 1
    run(inputs, window=5, backend="sdpa")


def test_gradient_in_double_precision() -> None:
    inputs = [x.detach().double().requires_grad_() for x in qkv(40, heads=2, kv_heads=1, dim=2)]
    for backend in ("naive", "banded"):
        assert torch.autograd.gradcheck(
            lambda q, k, v, b=backend: attention(q, k, v, 3, backend=b), inputs, fast_mode=True
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": -1}, "window is -1"),
        ({"backend": "flash"}, "'flash'.*banded"),
        ({"query_offset": 1}, "every query needs its own key"),
        ({"query_offset": -1}, "every query needs its own key"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attention(*qkv(4, heads=2, kv_heads=2), **options)


def test_bad_shapes() -> None:
    with pytest.raises(ValueError, match="3 query heads over 2 key-value heads"):
        attention(*qkv(4, heads=3, kv_heads=2))
    with pytest.raises(ValueError, match="empty sequence"):
        attention(torch.randn(1, 0, 2, 4), torch.randn(1, 3, 2, 4), torch.randn(1, 3, 2, 4))


# -- the layer -----------------------------------------------------------------------------------------------------


def layer(**options: Any) -> Attention:
    return Attention.Config(**{"dim": 16, "num_heads": 4, "num_kv_heads": 2, **options}).build()


@pytest.mark.parametrize("window", [None, 0, 3])
def test_which_tokens_an_output_depends_on(window: int | None) -> None:
    attention_layer = layer(window=window)
    x = torch.randn(1, 9, 16, requires_grad=True)
    y = attention_layer(x)
    for t in range(9):
        (gradient,) = torch.autograd.grad(y[0, t].sum(), x, retain_graph=True)
        seen = gradient[0].abs().sum(dim=-1).nonzero().flatten().tolist()
        assert seen == list(range(0 if window is None else max(0, t - window), t + 1))


def test_rotary_comes_before_the_query_and_key_norms() -> None:
    attention_layer = layer(rotary=Rotary.Config(theta=100.0), qk_norm=RMSNorm.Config())
    assert attention_layer.q_norm is not None
    torch.nn.init.uniform_(attention_layer.q_norm.gain, 0.5, 1.5)
    x = torch.randn(1, 5, 4, 4)
    positions = torch.arange(5)
    rotary = Rotary.Config(dim=4, theta=100.0).build()
    expected = attention_layer.q_norm(rotary(x, positions))
    torch.testing.assert_close(attention_layer.place(x, attention_layer.q_norm, positions), expected)


def test_without_rotary_positions_do_not_matter() -> None:
    attention_layer = layer(rotary=None)
    x = torch.randn(1, 6, 16)
    shuffled = x[:, [3, 1, 0, 4, 2, 5]]  # the last token sees the same set
    torch.testing.assert_close(attention_layer(x)[:, -1], attention_layer(shuffled)[:, -1])


def test_initial_scale() -> None:
    wide = Attention.Config(dim=256, num_heads=4, output_init_std=0.005).build()
    for projection in (wide.q_proj, wide.k_proj, wide.v_proj):
        assert projection.weight.std().item() == pytest.approx(256**-0.5, rel=0.03)
    assert wide.o_proj.weight.std().item() == pytest.approx(0.005, rel=0.03)
    alone = Attention.Config(dim=256, num_heads=4).build()
    assert alone.o_proj.weight.std().item() == pytest.approx(0.02 / 2**0.5, rel=0.03)


@pytest.mark.parametrize("window", [None, 0, 3, 30])
def test_flops_against_the_counter_of_torch(window: int | None) -> None:
    attention_layer = layer(window=window, head_dim=6, backend="naive")
    with FlopCounterMode(display=False) as counter:
        attention_layer(torch.randn(1, 11, 16))
    all_pairs = 4 * 4 * 6 * 11 * 11  # the naive form scores pairs that the mask then hides
    visible = 4 * 4 * 6 * visible_keys(11, window)
    assert attention_layer.flops_per_token(11) * 11 == counter.get_total_flops() - all_pairs + visible


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_kv_heads": 3}, "num_heads is 4, num_kv_heads 3"),
        ({"num_kv_heads": 0}, "num_kv_heads 0"),
        ({"num_heads": 3, "num_kv_heads": None}, "dim 16 does not divide into num_heads 3"),
        ({"head_dim": 5}, "even"),
        ({"window": -1}, r"Attention\.Config\.window is -1"),
        ({"backend": "fast"}, "'fast'"),
    ],
)
def test_bad_configs(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layer(**options)


def test_empty_sequence() -> None:
    with pytest.raises(ValueError, match="empty sequence"):
        layer()(torch.randn(1, 0, 16))


def test_building_twice_from_one_config_shares_nothing() -> None:
    cfg = Attention.Config(dim=16, num_heads=4, qk_norm=RMSNorm.Config())
    first, second = cfg.build(), cfg.build()
    assert not {id(p) for p in first.parameters()} & {id(p) for p in second.parameters()}
    assert "qk_norm.dim" in cfg.missing()  # the pushed-down dimension stayed in the private copy
