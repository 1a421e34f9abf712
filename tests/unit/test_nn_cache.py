"""Caches: prefill, chunked prefill and decoding equal the full forward at every position; what they hold; errors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchard.nn import Attention, Block, Cache, Decoder, FeedForward, FullCache, RMSNorm, RollingCache


def layer(window: int | None, kv_heads: int = 2, qk_norm: bool = False, backend: str = "auto") -> Attention:
    return Attention.Config(
        dim=12,
        num_heads=4,
        num_kv_heads=kv_heads,
        head_dim=6,
        window=window,
        qk_norm=RMSNorm.Config() if qk_norm else None,
        backend=backend,
    ).build()


@st.composite
def splits(draw: st.DrawFn) -> list[int]:
    """A sequence cut into pieces: mostly single tokens and short chunks, now and then a long one."""
    piece = st.one_of(st.just(1), st.integers(1, 6), st.integers(1, 40))
    return draw(st.lists(piece, min_size=1, max_size=10))


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    pieces=splits(),
    window=st.one_of(st.none(), st.integers(0, 12), st.integers(0, 60)),
    kv_heads=st.sampled_from([1, 2, 4]),
    qk_norm=st.booleans(),
    backend=st.sampled_from(["auto", "naive", "sdpa", "banded"]),
    spare=st.integers(0, 5),
)
def test_any_split_equals_the_full_forward(
    pieces: list[int], window: int | None, kv_heads: int, qk_norm: bool, backend: str, spare: int
) -> None:
    torch.manual_seed(0)
    attention = layer(window, kv_heads, qk_norm, backend)
    time = sum(pieces)
    x = torch.randn(2, time, 12)
    with torch.no_grad():
        full = attention(x)
        cache = attention.new_cache(2, time + spare, device="cpu", dtype=torch.float32)
        parts = []
        for part in x.split(pieces, dim=1):
            parts.append(attention(part, cache))
        torch.testing.assert_close(torch.cat(parts, dim=1), full, atol=1e-5, rtol=1e-4)
    assert cache.position == time
    if isinstance(cache, RollingCache):
        assert window is not None
        held = sorted(p for p in cache.positions.tolist() if p >= 0)
        assert held == list(range(max(0, time - window - 1), time))


def test_which_cache() -> None:
    def made(window: int | None, max_length: int) -> type:
        return type(layer(window).new_cache(1, max_length, device="cpu", dtype=torch.float32))

    assert made(None, 8) is FullCache
    assert made(3, 8) is RollingCache
    assert made(7, 8) is RollingCache
    assert made(8, 8) is FullCache  # the window never fills: no need for more slots than tokens
    assert made(10**9, 8) is FullCache


@pytest.mark.parametrize("window", [None, 0, 4, 30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes(window: int | None, dtype: torch.dtype) -> None:
    attention = layer(window)
    cache = attention.new_cache(3, 16, device="cpu", dtype=dtype)
    tokens = 16 if window is None else min(16, window + 1)
    elements = 2 * tokens * 2 * 6
    assert attention.cache_bytes(16, dtype.itemsize) == elements * dtype.itemsize
    assert cache.bytes() == 3 * elements * dtype.itemsize
    assert attention.cache_bytes(2, dtype.itemsize) == min(2, tokens) * 2 * 2 * 6 * dtype.itemsize


def test_rolling_slots() -> None:
    cache = RollingCache(1, window=2, heads=1, head_dim=1, device="cpu", dtype=torch.float32)
    tokens = torch.arange(1.0, 8.0).view(1, 7, 1, 1)
    cache.write(tokens[:, :2], tokens[:, :2])
    assert cache.positions.tolist() == [0, 1, -1]
    cache.write(tokens[:, 2:7], tokens[:, 2:7])  # more than there are slots
    assert cache.positions.tolist() == [6, 4, 5]
    k, _, positions = cache.past(10)
    assert positions.tolist() == [4, 5, 6]
    assert k.flatten().tolist() == [5.0, 6.0, 7.0]
    assert cache.past(1)[2].tolist() == [6]
    assert cache.past(0)[0].shape == (1, 0, 1, 1)


def test_overflow_names_the_length_that_would_do() -> None:
    attention = layer(None)
    cache = attention.new_cache(1, 4, device="cpu", dtype=torch.float32)
    attention(torch.randn(1, 3, 12), cache)
    with pytest.raises(ValueError, match=r"holds 3 tokens and 2 more.*max_length is 4.*max_length=5"):
        attention(torch.randn(1, 2, 12), cache)
    assert cache.position == 3  # unchanged: one more token still fits
    attention(torch.randn(1, 1, 12), cache)


@pytest.mark.parametrize("window", [None, 2])
def test_another_batch_size(window: int | None) -> None:
    attention = layer(window)
    cache = attention.new_cache(2, 8, device="cpu", dtype=torch.float32)
    with pytest.raises(ValueError, match="batch of 2, but got 1"):
        attention(torch.randn(1, 3, 12), cache)


@pytest.mark.parametrize(("batch", "length"), [(0, 4), (1, 0)])
def test_empty_caches_are_refused(batch: int, length: int) -> None:
    with pytest.raises(ValueError, match=r"new_cache\(batch="):
        layer(None).new_cache(batch, length, device="cpu", dtype=torch.float32)


@pytest.mark.parametrize("window", [None, 3])
def test_a_cache_in_another_precision(window: int | None) -> None:
    attention = layer(window)
    cache = attention.new_cache(1, 9, device="cpu", dtype=torch.bfloat16)
    x = torch.randn(1, 9, 12)
    with torch.no_grad():
        out = torch.cat([attention(part, cache) for part in x.split([5, 1, 1, 2], dim=1)], dim=1)
        torch.testing.assert_close(out, attention(x), atol=5e-3, rtol=0.1)
    assert out.dtype == torch.float32


def test_decoder_with_layers_of_different_windows() -> None:
    windows = [2, None, 0, 40]
    decoder = Decoder.Config(
        vocab_size=23,
        dim=12,
        layers=[
            Block.Config(
                attention=Attention.Config(num_heads=2, window=window), feed_forward=FeedForward.Config(hidden_dim=8)
            )
            for window in windows
        ],
    ).build()
    tokens = torch.randint(0, 23, (2, 31))
    with torch.no_grad():
        full = decoder(tokens)
        cache = decoder.new_cache(2, 31, device="cpu", dtype=torch.float32)
        parts = [decoder(part, cache) for part in tokens.split([7, 1, 1, 13, 1, 8], dim=1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), full, atol=1e-5, rtol=1e-4)
    assert cache.position == 31
    assert cache.bytes() == sum(one.bytes() for one in cache.layers)
    assert decoder.cache_bytes(31, 4) == 2 * 12 * 4 * (3 + 31 + 1 + 31)


def continued(decoder: Decoder, cache: object, tokens: torch.Tensor) -> torch.Tensor:
    return torch.cat([decoder(token, cache) for token in tokens.split(1, dim=1)], dim=1)


@pytest.mark.parametrize("windows", [(None, None), (3, None), (2, 4)])
@torch.no_grad()
def test_a_cache_that_was_cut_back_goes_on_as_if_nothing_had_come_after(windows: tuple[int | None, ...]) -> None:
    block = [
        Block.Config(attention=Attention.Config(num_heads=2, window=w), feed_forward=FeedForward.Config(hidden_dim=8))
        for w in windows
    ]
    decoder = Decoder.Config(vocab_size=13, dim=8, layers=block).build()
    tokens, drafted = torch.randint(0, 13, (2, 20)), torch.randint(0, 13, (2, 4))
    expected = decoder(tokens)
    cache = decoder.new_cache(2, 40, device="cpu", dtype=torch.float32, spare=4)
    decoder(tokens[:, :9], cache)
    for accepted in (0, 2, 4, 1):  # of the four drafted tokens, as in speculative decoding
        start = cache.position
        text = torch.cat([tokens[:, start : start + accepted], drafted[:, accepted:]], dim=1)
        decoder(text, cache)
        cache.cut(start + accepted)
        logits = continued(decoder, cache, tokens[:, start + accepted : start + accepted + 1])
        torch.testing.assert_close(logits, expected[:, start + accepted : start + accepted + 1], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_cut_that_would_need_lost_tokens_is_refused_and_changes_nothing() -> None:
    blocks = [
        Block.Config(attention=Attention.Config(num_heads=2, window=w), feed_forward=FeedForward.Config(hidden_dim=8))
        for w in (None, 3)
    ]
    decoder = Decoder.Config(vocab_size=13, dim=8, layers=blocks).build()
    cache = decoder.new_cache(1, 40, device="cpu", dtype=torch.float32, spare=1)
    decoder(torch.randint(0, 13, (1, 12)), cache)
    cache.cut(11)
    with pytest.raises(ValueError, match=r"new_cache\(\.\.\., spare=3\)"):
        cache.cut(8)
    assert [layer.position for layer in cache.layers] == [11, 11]
    with pytest.raises(ValueError, match=r"cut back to 0 \.\.\. 11"):
        cache.cut(12)


def test_a_state_says_that_it_cannot_be_cut() -> None:
    class State(RollingCache):
        check_cut = Cache.check_cut

    with pytest.raises(ValueError, match="State cannot be cut back to 0: what it holds is a sum over all tokens"):
        State(1, 3, 1, 4, device="cpu", dtype=torch.float32).cut(0)
