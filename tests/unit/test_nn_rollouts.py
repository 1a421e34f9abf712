"""Many continuations of a prompt: equal to continuing every copy, to a forward pass, to the prompts alone; errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from orchard.nn import Attention, Block, Cache, Conditioned, Decoder, FeedForward, Sampling, stream
from orchard.nn.rollouts import repeated, rollouts
from orchard.nn.sequence import token_log_probs


def sharp(**attention: Any) -> Decoder:
    """A local and a global layer; logits differ enough that rounding changes no draw."""
    blocks = [
        Block.Config(
            attention=Attention.Config(num_heads=2, window=window, **attention),
            feed_forward=FeedForward.Config(hidden_dim=10),
        )
        for window in (3, None)
    ]
    decoder = Decoder.Config(vocab_size=13, dim=8, layers=blocks).build()
    torch.nn.init.normal_(decoder.embedding.weight)
    return decoder


def seeded(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.2), Sampling(0.7, top_k=4, top_p=0.9)])
def test_it_is_continuing_every_copy_of_a_prompt(sampling: Sampling) -> None:
    decoder, prompts, prefix = sharp(), torch.randint(0, 13, (3, 4)), torch.randn(3, 2, 8)
    allowed = torch.arange(13) > 2
    made = rollouts(
        decoder, prompts, 4, 7, sampling, seeded(), prefix=prefix, allowed=allowed, stop_token=5, prefill_chunk=3
    )
    copies = Conditioned(decoder, prefix=prefix.repeat_interleave(4, dim=0), allowed=allowed)
    steps = stream(copies, prompts.repeat_interleave(4, dim=0), 7, sampling, seeded(), stop_token=5)
    expected = torch.cat(list(steps), dim=1).unflatten(0, (3, 4))
    assert made.tokens.tolist() == expected.tolist()
    assert made.tokens.shape == made.counts.shape == made.log_probs.shape


def test_log_probs_are_those_of_a_forward_pass_at_temperature_one() -> None:
    decoder, prompts, prefix = sharp(), torch.randint(0, 13, (2, 3)), torch.randn(2, 2, 8)
    made = rollouts(decoder, prompts, 3, 6, Sampling(2.0, top_k=8), seeded(), prefix=prefix, stop_token=1)
    whole = torch.cat((prompts.repeat_interleave(3, dim=0), made.tokens.flatten(0, 1)), dim=1)
    conditioned = Conditioned(decoder, prefix=prefix.repeat_interleave(3, dim=0))
    logits = conditioned.logits(conditioned.features(whole[:, :-1]))[:, 2:]
    expected = token_log_probs(logits, whole[:, 3:], made.counts.flatten(0, 1))
    torch.testing.assert_close(made.log_probs.flatten(0, 1), expected.detach(), atol=1e-5, rtol=1e-5)


def test_a_row_counts_up_to_its_first_stop_token() -> None:
    made = rollouts(sharp(), torch.zeros(2, 1, dtype=torch.long), 40, 6, Sampling(3.0), seeded(), stop_token=4)
    rows = [row for of_prompt in made.rows() for row in of_prompt]
    assert any(len(row) == 1 for row in rows)
    assert any(4 not in row for row in rows)
    for row, ids, log_probs in zip(
        rows, made.tokens.flatten(0, 1).tolist(), made.log_probs.flatten(0, 1).tolist(), strict=True
    ):
        assert 4 not in row[:-1]
        assert ids == row + [4] * (len(ids) - len(row))
        assert all(x < 0 for x in log_probs[: len(row)])
        assert log_probs[len(row) :] == [0.0] * (len(ids) - len(row))


def test_it_ends_when_every_row_has_stopped() -> None:
    only = torch.arange(13) == 6
    made = rollouts(sharp(), torch.zeros(1, 2, dtype=torch.long), 2, 50, Sampling(), allowed=only, stop_token=6)
    assert made.tokens.tolist() == [[[6], [6]]]
    assert made.log_probs.tolist() == [[[0.0], [0.0]]]  # the one id that is allowed is certain


def test_prompts_of_unequal_length_are_continued_as_if_alone() -> None:
    decoder, prefix = sharp(), torch.randn(3, 2, 8)
    prompts = [torch.tensor([1, 2, 3]), torch.tensor([4]), torch.tensor([5, 6, 7])]
    together = rollouts(decoder, prompts, 2, 5, Sampling(), prefix=prefix, stop_token=0)
    for i, prompt in enumerate(prompts):
        alone = rollouts(decoder, prompt[None], 2, 5, Sampling(), prefix=prefix[i : i + 1], stop_token=0)
        assert together.rows()[i] == alone.rows()[0]
        time = alone.tokens.shape[2]
        torch.testing.assert_close(together.log_probs[i, :, :time], alone.log_probs[0], atol=1e-5, rtol=1e-5)


def test_a_prompt_is_read_once_whatever_n_is(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, shapes = sharp(), []
    plain = decoder.features

    def watched(tokens: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        shapes.append(tuple(tokens.shape))
        return plain(tokens, *args, **kwargs)

    monkeypatch.setattr(decoder, "features", watched)
    rollouts(decoder, torch.randint(0, 13, (2, 6)), 5, 3, Sampling(1.0), seeded())
    assert shapes == [(2, 6), (10, 1), (10, 1)]


def test_the_given_cache_stays_as_it_is() -> None:
    decoder = sharp()
    cache = decoder.new_cache(2, 8, device="cpu", dtype=torch.float32)
    decoder.features(torch.randint(0, 13, (2, 4)), cache)
    more = repeated(cache, 2, 3)
    decoder.features(torch.randint(0, 13, (6, 1)), more)
    assert (cache.position, more.position) == (4, 5)
    assert more.bytes() == 3 * cache.bytes()


def test_errors() -> None:
    decoder, prompts = sharp(), torch.zeros(2, 3, dtype=torch.long)
    for none in ([], [torch.zeros(0, dtype=torch.long)], torch.zeros(2, 0, dtype=torch.long)):
        with pytest.raises(ValueError, match="at least one prompt, each of at least one token"):
            rollouts(decoder, none, 1, 1, Sampling())
    for n, most in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="each must be at least 1"):
            rollouts(decoder, prompts, n, most, Sampling())
    with pytest.raises(ValueError, match="1 prefixes for 2 prompts"):
        rollouts(decoder, list(prompts), 1, 1, Sampling(), prefix=torch.randn(1, 2, 8))
    with pytest.raises(ValueError, match=r"vocab_size is 13"):
        rollouts(decoder, prompts + 13, 1, 1, Sampling())

    class Sum(Cache):
        total = None

    state = Sum()
    state.total = torch.zeros(3)
    with pytest.raises(TypeError, match=r"Sum\.total is \[3\] for 2 sequences"):
        repeated(state, 2, 4)
