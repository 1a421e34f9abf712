"""Packed documents: each is computed as if it were alone, in every backend, gradients included."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
import torch

from orchard.nn import Attention, Block, Decoder, FeedForward, Packed, RMSNorm, Rotary, attention

ENDS = [0, 1, 38, 40, 150, 163]  # one token, longer than the window, two tokens, long enough for blocks, odd


@pytest.fixture
def packed() -> Packed:
    return Packed(torch.tensor(ENDS))


def test_what_is_derived_from_the_boundaries(packed: Packed) -> None:
    assert packed.lengths == [1, 37, 2, 110, 13]
    assert packed.document.bincount().tolist() == packed.lengths
    for start, end in pairwise(ENDS):
        assert packed.positions[start:end].tolist() == list(range(end - start))


@pytest.mark.parametrize("backend", ["naive", "sdpa", "banded", "flex", "auto"])
@pytest.mark.parametrize("window", [None, 0, 7, 40, 500])
@torch.no_grad()
def test_a_document_is_attended_as_if_it_were_alone(packed: Packed, backend: str, window: int | None) -> None:
    q, k, v = (torch.randn(1, ENDS[-1], heads, 16) for heads in (4, 2, 2))
    found = attention(q, k, v, window, backend=backend, packed=packed)
    for start, end in pairwise(ENDS):
        alone = attention(*(x[:, start:end] for x in (q, k, v)), window, backend="naive")
        torch.testing.assert_close(found[:, start:end], alone, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("window", [None, 5])
@torch.no_grad()
def test_flex_is_attention_with_an_offset_too(window: int | None) -> None:
    q, k, v = (torch.randn(2, time, heads, 16) for time, heads in ((9, 4), (140, 2), (140, 2)))
    found = attention(q, k, v, window, query_offset=131, backend="flex")
    torch.testing.assert_close(found, attention(q, k, v, window, 131, "naive"), atol=2e-6, rtol=1e-5)


def test_nothing_leaks_through_a_decoder(packed: Packed) -> None:
    layers = [
        Block.Config(
            attention=Attention.Config(num_heads=2, window=window, rotary=rotary, qk_norm=RMSNorm.Config()),
            feed_forward=FeedForward.Config(hidden_dim=24),
        )
        for window, rotary in ((6, Rotary.Config()), (None, None))
    ]
    model = Decoder.Config(vocab_size=11, dim=16, layers=layers).build()
    tokens = torch.randint(0, 11, (1, ENDS[-1]))
    logits = model(tokens, packed=packed)
    for start, end in pairwise(ENDS):
        torch.testing.assert_close(logits[:, start:end], model(tokens[:, start:end]), atol=2e-5, rtol=1e-4)

    changed = tokens.clone()
    changed[:, ENDS[2] : ENDS[3]] = (changed[:, ENDS[2] : ENDS[3]] + 1) % 11
    same = (model(changed, packed=packed) == logits).all(-1)[0]
    assert same.logical_not().nonzero().flatten().tolist() == list(range(ENDS[2], ENDS[3]))


@pytest.mark.parametrize("ends", [[0], [1, 5], [0, 4, 4], [0, 6, 3]])
def test_boundaries_that_are_none(ends: list[int]) -> None:
    with pytest.raises(ValueError, match=re.escape(f"cu_seqlens is {ends}")):
        Packed(torch.tensor(ends))


def test_input_that_does_not_fit(packed: Packed) -> None:
    q = torch.randn(2, 5, 2, 8)
    with pytest.raises(ValueError, match="end at 163, but the input has 2 rows of 5 tokens"):
        attention(q, q, q, packed=packed)
    q = torch.randn(1, 163, 2, 8)
    with pytest.raises(ValueError, match="query_offset is 2: packed"):
        attention(q, q, q, query_offset=2, packed=packed)
    layer = Attention.Config(dim=16, num_heads=2).build()
    cache = layer.new_cache(1, 200, device="cpu", dtype=torch.float32)
    with pytest.raises(ValueError, match="a cache and packed documents"):
        layer(torch.randn(1, 163, 16), cache, packed)
    with pytest.raises(ValueError, match='"flex" has no backward on the CPU'):
        attention(q.requires_grad_(), q, q, window=3, backend="flex")


def test_a_rotary_range_is_a_limit_where_one_is_set() -> None:
    layer = Attention.Config(dim=16, num_heads=2, rotary=Rotary.Config(max_length=8)).build()
    layer(torch.randn(1, 8, 16))
    with pytest.raises(ValueError, match=re.escape("rotary position 8, but Rotary.Config.max_length is 8")):
        layer(torch.randn(1, 9, 16))
    cache = layer.new_cache(1, 20, device="cpu", dtype=torch.float32)
    layer(torch.randn(1, 8, 16), cache)
    with pytest.raises(ValueError, match="rotary position 8"):
        layer(torch.randn(1, 1, 16), cache)
    with pytest.raises(ValueError, match="max_length is 0"):
        Rotary.Config(dim=8, max_length=0).build()
