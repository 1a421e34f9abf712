"""Attention that is not causal: against PyTorch's kernel with a mask written out, in packed documents, and what it refuses."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from orchard.nn import Attention, Packed, attention
from orchard.nn.attention import visible_keys, window_mask


@pytest.mark.parametrize("backend", ["naive", "sdpa", "banded", "auto"])
@pytest.mark.parametrize("window", [None, 0, 2, 40])
def test_every_backend_sees_both_sides(window: int | None, backend: str) -> None:
    q, k, v = (torch.randn(2, 130, heads, 8, requires_grad=True) for heads in (4, 2, 2))
    distance = (torch.arange(130)[:, None] - torch.arange(130)).abs()
    mask = torch.ones(130, 130, dtype=torch.bool) if window is None else distance <= window
    swapped = (x.transpose(1, 2) for x in (q, k, v))
    expected = F.scaled_dot_product_attention(*swapped, attn_mask=mask, enable_gqa=True).transpose(1, 2)
    out = attention(q, k, v, window, backend=backend, causal=False)
    torch.testing.assert_close(out, expected)
    cotangent = torch.randn_like(out)
    ours, theirs = (torch.autograd.grad(o, (q, k, v), cotangent) for o in (out, expected))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)
    assert (
        visible_keys(130, window, causal=False)
        == mask.sum()
        == window_mask(*[torch.arange(130)] * 2, window, False).sum()
    )


@pytest.mark.parametrize("backend", ["sdpa", "flex"])
@pytest.mark.parametrize("window", [None, 3])
@torch.no_grad()
def test_packed_documents_do_not_see_one_another(window: int | None, backend: str) -> None:
    lengths = [5, 1, 9]
    q, k, v = (torch.randn(1, 15, 2, 8) for _ in range(3))
    packed = Packed(torch.tensor([0, 5, 6, 15]))
    out = attention(q, k, v, window, backend=backend, packed=packed, causal=False)
    parts = zip(*(x.split(lengths, dim=1) for x in (q, k, v)), strict=True)
    alone = torch.cat([attention(*part, window, backend="naive", causal=False) for part in parts], dim=1)
    torch.testing.assert_close(out, alone)


def test_the_layer_counts_both_sides_and_refuses_a_cache() -> None:
    both, causal = (Attention.Config(dim=8, num_heads=2, window=2, causal=c).build() for c in (False, True))
    x = torch.randn(1, 9, 8)
    out = both(x)
    changed = x.clone()
    changed[:, 8] = 1.0
    assert not torch.equal(both(changed)[:, 6], out[:, 6])
    assert torch.equal(both(changed)[:, :6], out[:, :6])
    assert both.flops_per_token(9) > causal.flops_per_token(9)
    with pytest.raises(ValueError, match="not causal"):
        both.new_cache(1, 9, device="cpu", dtype=torch.float32)
    cache = causal.new_cache(1, 9, device="cpu", dtype=torch.float32)
    with pytest.raises(ValueError, match="not causal"):
        both(x, cache)


def test_a_layer_that_is_causal_by_definition_says_so() -> None:
    class Recurrent(Attention):
        only_causal = True

    with pytest.raises(ValueError, match="causal by its definition"):
        Recurrent.Config(dim=8, num_heads=2, causal=False).build()
