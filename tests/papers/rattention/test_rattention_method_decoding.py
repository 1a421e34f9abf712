"""Decoding with RAttention: prefill and steps equal the whole at every position; real bytes equal the formula; long
prompts leave nothing behind in local layers but the window and the state."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from orchard.nn import Attention, Block, Decoder, FeedForward, RMSNorm, Sampling, stream
from orchard.papers.rattention.method.attention import RAttention

HEAD_DIM = 4


def decoder(windows: list[int | None], kv_heads: int = 2, qk_norm: bool = True, **rattention: Any) -> Decoder:
    """One layer per window: None is full attention, a number RAttention. Outputs and gains matter to the logits."""
    shared: dict[str, Any] = {
        "num_heads": 4, "num_kv_heads": kv_heads, "head_dim": HEAD_DIM, "output_init_std": 0.3,
        "qk_norm": RMSNorm.Config() if qk_norm else None,
    }  # fmt: skip
    parts = [
        Attention.Config(**shared) if w is None else RAttention.Config(**shared, window=w, **rattention)
        for w in windows
    ]
    feed_forward = FeedForward.Config(hidden_dim=12, output_init_std=0.3)
    layers = [Block.Config(attention=part, feed_forward=feed_forward) for part in parts]
    model: Decoder = Decoder.Config(vocab_size=29, dim=16, layers=layers).build()
    for part in model.modules():
        if isinstance(part, RMSNorm):
            torch.nn.init.uniform_(part.gain, 0.5, 1.5)
    return model.eval()


window = st.one_of(st.sampled_from([-1, 0, 1]), st.integers(0, 9), st.integers(30, 90))
piece = st.one_of(st.just(1), st.integers(1, 6), st.integers(1, 25))


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(
    windows=st.lists(st.one_of(window, st.none()), min_size=1, max_size=3),
    prefill=st.lists(piece, min_size=1, max_size=4),
    steps=st.integers(0, 8),
    batch=st.integers(1, 3),
    kv_heads=st.sampled_from([1, 2, 4]),
    qk_norm=st.booleans(),
    feature_map=st.sampled_from(["softmax", "relu", "identity"]),
    seed=st.integers(0, 99),
)
@torch.no_grad()
def test_prefill_in_pieces_then_steps_equal_the_full_forward(
    windows: list[int | None], prefill: list[int], steps: int, batch: int, kv_heads: int, qk_norm: bool,
    feature_map: str, seed: int,
) -> None:  # fmt: skip
    torch.manual_seed(seed)
    model = decoder(windows, kv_heads, qk_norm, feature_map=feature_map)
    time = sum(prefill) + steps
    tokens = torch.randint(0, 29, (batch, time))
    cache = model.new_cache(batch, time, device="cpu", dtype=torch.float32)
    pieces = [model(part, cache) for part in tokens.split(prefill + [1] * steps, dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(tokens), atol=1e-4, rtol=1e-4)
    assert cache.position == time


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(
    windows=st.lists(st.one_of(window, st.none()), min_size=1, max_size=3),
    length=st.integers(1, 60),
    batch=st.integers(1, 3),
    kv_heads=st.sampled_from([1, 2, 4]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    feature_map=st.sampled_from(["softmax", "identity"]),
)
@torch.no_grad()
def test_real_bytes_are_those_of_the_formula(
    windows: list[int | None], length: int, batch: int, kv_heads: int, dtype: torch.dtype, feature_map: str
) -> None:
    """The formula counts what `length` tokens need; memory is taken at once, so a window that is not full waits in it."""
    model = decoder(windows, kv_heads, feature_map=feature_map).to(dtype)
    cache = model.new_cache(batch, length, device="cpu", dtype=dtype)
    model.features(torch.randint(0, 29, (batch, length)), cache)
    features = HEAD_DIM * (2 if feature_map == "softmax" else 1)
    unused = 0
    for w in windows:
        if w is not None and length <= w + 1:
            unused += 2 * (w + 1 - length) * kv_heads * HEAD_DIM * dtype.itemsize + 4 * kv_heads * features * HEAD_DIM
    assert cache.bytes() == batch * (model.cache_bytes(length, dtype.itemsize) + unused)
    assert cache.bytes() == sum(x.nbytes for layer in cache.layers for x in vars(layer).values() if torch.is_tensor(x))


class Largest(TorchDispatchMode):
    """The largest tensor, in bytes, that any operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else (out,):
            if isinstance(x, torch.Tensor):
                self.bytes = max(self.bytes, x.nbytes)
        return out


def continued(model: Decoder, length: int, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Bytes of the caches and of the largest tensor while a prompt of `length` tokens is read and continued by 3."""
    made, new_cache = [], model.new_cache
    monkeypatch.setattr(model, "new_cache", lambda *args, **kwargs: made.append(new_cache(*args, **kwargs)) or made[-1])
    prompt = torch.randint(0, 29, (1, length))
    with Largest() as largest:
        assert len(list(stream(model, prompt, 3, Sampling()))) == 3
    assert made[0].position == length + 2  # the last new token is not read
    return made[0].bytes(), largest.bytes


def test_a_long_prompt_costs_local_layers_the_window_and_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches and activations alike: the largest tensor is that of one piece of the prompt, however long the prompt."""
    model = decoder([15, 15, -1])
    held, largest = continued(model, 16_384, monkeypatch)
    state = 4 * 2 * 2 * HEAD_DIM * HEAD_DIM  # fp32, one per kv head
    assert held == 2 * (2 * 16 * 2 * HEAD_DIM * 4 + state) + state == model.cache_bytes(16_384, 4)
    assert (held, largest) == continued(model, 2_048, monkeypatch)
    assert largest < 16_384 * HEAD_DIM * 4  # less than one head of all keys


def test_global_layers_keep_every_token(monkeypatch: pytest.MonkeyPatch) -> None:
    model = decoder([15, None])
    held = [continued(model, length, monkeypatch)[0] for length in (2_048, 4_096)]
    assert held[1] - held[0] == 2_048 * 2 * 2 * HEAD_DIM * 4


def test_a_batch_gives_what_its_rows_give() -> None:
    model = decoder([3, None, 0])
    prompt = torch.randint(0, 29, (3, 11))
    together = model.generate(prompt, 20)
    assert together.tolist() == [model.generate(row[None], 20)[0].tolist() for row in prompt]
