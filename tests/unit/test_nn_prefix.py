"""Decoding after a prefix of embeddings and among allowed ids: equal to tokens, equal without caches, errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from orchard.nn import Attention, Block, Conditioned, Decoder, FeedForward, Rotary, Sampling, generate_each, stream


def sharp(windows: tuple[int | None, ...] = (3, None), **attention: Any) -> Decoder:
    """A decoder whose logits differ enough that rounding never changes which is largest."""
    blocks = [
        Block.Config(
            attention=Attention.Config(num_heads=4, num_kv_heads=2, window=window, **attention),
            feed_forward=FeedForward.Config(hidden_dim=10),
        )
        for window in windows
    ]
    decoder = Decoder.Config(vocab_size=19, dim=16, layers=blocks).build()
    torch.nn.init.normal_(decoder.embedding.weight)
    return decoder


def only(*ids: int) -> Tensor:
    allowed = torch.zeros(19, dtype=torch.bool)
    allowed[list(ids)] = True
    return allowed


@torch.no_grad()
def test_embeddings_of_tokens_are_the_tokens_bit_for_bit() -> None:
    decoder, tokens = sharp(), torch.randint(0, 19, (2, 9))
    conditioned = Conditioned(decoder, prefix=decoder.embed(tokens[:, :5]))
    assert torch.equal(conditioned.features(tokens[:, 5:]), decoder.features(tokens)[:, 5:])
    caches = [d.new_cache(2, 9, device="cpu", dtype=torch.float32) for d in (conditioned, decoder)]
    assert torch.equal(
        conditioned.features(tokens[:, 5:8], caches[0]), decoder.features(tokens[:, :8], caches[1])[:, 5:]
    )
    assert torch.equal(conditioned.features(tokens[:, 8:], caches[0]), decoder.features(tokens[:, 8:], caches[1]))
    assert caches[0].position == caches[1].position == 9


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0), Sampling(0.7, top_k=5, top_p=0.9)])
def test_generation_after_a_prefix_is_generation_after_its_tokens(sampling: Sampling) -> None:
    decoder, tokens = sharp(), torch.randint(0, 19, (3, 7))
    conditioned = Conditioned(decoder, prefix=decoder.embed(tokens[:, :4]).detach())
    made = stream(conditioned, tokens[:, 4:], 12, sampling, torch.Generator().manual_seed(1))
    expected = stream(decoder, tokens, 12, sampling, torch.Generator().manual_seed(1))
    assert torch.equal(torch.cat(list(made), dim=1), torch.cat(list(expected), dim=1))


@pytest.mark.parametrize("chunk", [1, 2, 500])
@torch.no_grad()
def test_caches_change_nothing(chunk: int) -> None:
    decoder, prefix, tokens = sharp(), torch.randn(2, 6, 16), torch.randint(0, 19, (2, 3))
    allowed = only(2, 3, 5, 7, 11)
    slow = tokens
    for _ in range(10):
        logits = decoder(slow, embeddings=prefix)[:, -1].masked_fill(~allowed, float("-inf"))
        slow = torch.cat((slow, logits.argmax(dim=-1, keepdim=True)), dim=1)
    conditioned = Conditioned(decoder, prefix=prefix, allowed=allowed)
    fast = torch.cat([tokens, *stream(conditioned, tokens, 10, Sampling(), prefill_chunk=chunk)], dim=1)
    assert fast.tolist() == slow.tolist()


def test_only_allowed_ids_are_drawn_by_the_chances_left_to_them() -> None:
    decoder, tokens = sharp(), torch.zeros(4000, 1, dtype=torch.long)
    allowed = only(1, 4, 18)
    conditioned = Conditioned(decoder, allowed=allowed)
    drawn = next(stream(conditioned, tokens, 1, Sampling(2.0), torch.Generator().manual_seed(0)))
    chances = (decoder(tokens[:1])[0, -1, allowed] / 2).softmax(dim=0)
    shares = torch.stack([(drawn == i).float().mean() for i in (1, 4, 18)])
    assert shares.sum() == 1
    torch.testing.assert_close(shares, chances, atol=0.03, rtol=0)


@torch.no_grad()
def test_one_prefix_for_all_rows_and_prompts_of_different_lengths() -> None:
    decoder, prefix = sharp(), torch.randn(1, 4, 16)
    conditioned = Conditioned(decoder, prefix=prefix, allowed=only(*range(1, 19)))
    prompts = [torch.tensor([1, 2, 3]), torch.tensor([4]), torch.tensor([5, 6, 7])]
    together = generate_each(conditioned, prompts, 6, Sampling(), stop_token=9)
    alone = [generate_each(conditioned, [prompt], 6, Sampling(), stop_token=9)[0] for prompt in prompts]
    assert [row.tolist() for row in together] == [row.tolist() for row in alone]


def test_nothing_given_is_the_decoder() -> None:
    decoder, tokens = sharp(), torch.randint(0, 19, (2, 5))
    plain = torch.cat([tokens, *stream(Conditioned(decoder), tokens, 8, Sampling())], dim=1)
    assert torch.equal(plain, decoder.generate(tokens, 8))


def test_gradients_reach_the_prefix() -> None:
    prefix = torch.randn(2, 3, 16, requires_grad=True)
    Conditioned(sharp(), prefix=prefix).features(torch.randint(0, 19, (2, 4))).sum().backward()
    assert prefix.grad is not None
    assert (prefix.grad != 0).any(dim=-1).all()


def test_errors() -> None:
    decoder, tokens = sharp(), torch.randint(0, 19, (2, 3))
    for prefix in (torch.randn(2, 0, 16), torch.randn(2, 4, 8)):
        with pytest.raises(ValueError, match=r"prefix is \[2, .*give \[rows, length, 16\]"):
            Conditioned(decoder, prefix=prefix)
    for allowed in (torch.ones(18, dtype=torch.bool), torch.zeros(19, dtype=torch.bool)):
        with pytest.raises(ValueError, match="one value for each of the 19 ids of the decoder, True for at least one"):
            Conditioned(decoder, allowed=allowed)
    three = Conditioned(decoder, prefix=torch.randn(3, 4, 16))
    with pytest.raises(ValueError, match="the prefix has 3 rows, the tokens 2"):
        next(stream(three, tokens, 1, Sampling()))
    short = Conditioned(sharp(rotary=Rotary.Config(max_length=8)), prefix=torch.randn(2, 4, 16))
    with pytest.raises(ValueError, match=r"Rotary\.Config\.max_length is 8"):  # the prefix counts
        next(stream(short, tokens, 2, Sampling()))
