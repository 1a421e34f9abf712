"""Generation: sampling filters, stop tokens, streaming, prompts of different lengths, long prompts in pieces, errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from orchard.nn import Attention, Block, Decoder, FeedForward, Rotary, Sampling, generate_each, stream


def sharp(vocab_size: int = 19, windows: tuple[int | None, ...] = (3, None), **attention: Any) -> Decoder:
    """A decoder whose logits differ enough that rounding never changes which is largest."""
    blocks = [
        Block.Config(
            attention=Attention.Config(num_heads=4, num_kv_heads=2, window=window, **attention),
            feed_forward=FeedForward.Config(hidden_dim=10),
        )
        for window in windows
    ]
    decoder = Decoder.Config(vocab_size=vocab_size, dim=16, layers=blocks).build()
    torch.nn.init.normal_(decoder.embedding.weight)
    return decoder


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 500])
def test_the_prompt_may_be_read_in_any_pieces(chunk: int) -> None:
    decoder, prompt = sharp(), torch.randint(0, 19, (3, 7))
    slow = prompt
    for _ in range(9):
        slow = torch.cat((slow, decoder(slow)[:, -1:].argmax(dim=-1)), dim=1)
    assert decoder.generate(prompt, 9, prefill_chunk=chunk).tolist() == slow.tolist()


def test_top_k_and_top_p_by_hand() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.1, 0.2, 0.3, 0.4]]).log()

    def kept(**options: Any) -> torch.Tensor:
        chances = Sampling(1.0, **options).probabilities(logits)
        return chances / chances.sum(dim=-1, keepdim=True)

    torch.testing.assert_close(kept(), logits.exp())
    torch.testing.assert_close(kept(top_k=2), torch.tensor([[0.625, 0.375, 0, 0], [0, 0, 3 / 7, 4 / 7]]))
    torch.testing.assert_close(kept(top_k=9), logits.exp())
    # The nucleus is the smallest set of likeliest tokens whose mass reaches top_p; it is never empty.
    torch.testing.assert_close(kept(top_p=0.79), torch.tensor([[0.625, 0.375, 0, 0], [0, 2 / 9, 3 / 9, 4 / 9]]))
    torch.testing.assert_close(kept(top_p=0.01), torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 1.0]]))
    torch.testing.assert_close(kept(top_p=1.0), logits.exp())
    # After top_k = 2 the first row is 0.625, 0.375: a nucleus of 0.6 is its first token alone.
    torch.testing.assert_close(kept(top_k=2, top_p=0.6), torch.tensor([[1.0, 0, 0, 0], [0, 0, 3 / 7, 4 / 7]]))


def test_temperature_divides_the_logits() -> None:
    logits = torch.randn(2, 5)
    torch.testing.assert_close(Sampling(0.5).probabilities(logits), (2 * logits).softmax(dim=-1))


def test_drawn_frequencies_follow_the_filters() -> None:
    decoder = sharp(vocab_size=6)
    prompt = torch.tensor([[2]]).expand(4000, 1)
    drawn = decoder.generate(prompt, 1, 2.0, seeded(), top_k=4, top_p=0.9)[:, 1]
    expected = Sampling(2.0, 4, 0.9).probabilities(decoder(prompt[:1])[:, -1])[0]
    torch.testing.assert_close(drawn.bincount(minlength=6) / 4000, expected / expected.sum(), atol=0.03, rtol=0)
    assert drawn.bincount(minlength=6)[expected == 0].sum() == 0


def test_top_k_1_is_greedy_and_a_generator_reproduces() -> None:
    decoder, prompt = sharp(), torch.randint(0, 19, (2, 4))
    assert decoder.generate(prompt, 8, 3.0, seeded(), top_k=1).tolist() == decoder.generate(prompt, 8).tolist()
    first, again, other = (decoder.generate(prompt, 8, 1.0, seeded(s), top_p=0.95).tolist() for s in (4, 4, 5))
    assert first == again != other


def test_a_row_that_has_stopped_repeats_the_stop_token_and_all_end_together() -> None:
    decoder, prompt = sharp(), torch.randint(0, 19, (4, 3))
    free = decoder.generate(prompt, 12)
    stop = int(free[0, 5])
    out = decoder.generate(prompt, 12, stop_token=stop)
    ends = []
    for row, whole in zip(out[:, 3:].tolist(), free[:, 3:].tolist(), strict=True):
        end = whole.index(stop) if stop in whole else 12
        ends.append(end)
        assert row == (whole[:end] + [stop] * 12)[: len(row)]
    assert out.shape[1] == 3 + min(12, max(ends) + 1)


def test_stream_yields_what_generate_returns_as_it_is_made() -> None:
    decoder, prompt = sharp(), torch.randint(0, 19, (2, 5))
    made = []
    for token in stream(decoder, prompt, 6, Sampling()):
        assert token.shape == (2, 1)
        assert not token.requires_grad
        made.append(token)
        assert torch.is_grad_enabled()  # the caller's own setting between two tokens
    assert torch.cat([prompt, *made], dim=1).tolist() == decoder.generate(prompt, 6).tolist()
    assert not list(stream(decoder, prompt, 0, Sampling()))


def test_prompts_of_different_lengths_give_what_each_gives_alone() -> None:
    decoder = sharp()
    prompts = [torch.randint(0, 19, (length,)) for length in (4, 1, 7, 4, 2, 7)]
    alone = [decoder.generate(prompt[None], 6)[0].tolist() for prompt in prompts]
    assert [row.tolist() for row in generate_each(decoder, prompts, 6, Sampling())] == alone
    stop = alone[0][5]
    for row, whole, prompt in zip(
        generate_each(decoder, prompts, 6, Sampling(), stop_token=stop), alone, prompts, strict=True
    ):
        new = whole[len(prompt) :]
        end = new.index(stop) + 1 if stop in new else 6
        assert row.tolist() == whole[: len(prompt) + end]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": -1}, r"max_new_tokens=-1, prefill_chunk=512\): give at least 0 new tokens"),
        ({"prefill_chunk": 0}, r"prefill_chunk=0\).*read at least 1"),
        ({"temperature": -0.5}, r"temperature=-0.5: it must be >= 0"),
        ({"temperature": float("nan")}, r"temperature=nan"),
        ({"top_k": 0}, r"top_k=0: keep at least 1"),
        ({"top_p": 0.0}, r"top_p=0.0: .* in \(0, 1\]"),
        ({"top_p": 1.5}, r"top_p=1.5"),
        ({"tokens": torch.zeros(2, 0, dtype=torch.int64)}, r"empty prompt \(2, 0\).*bos"),
        ({"tokens": torch.zeros(0, 3, dtype=torch.int64)}, r"empty prompt \(0, 3\)"),
        ({"tokens": torch.tensor([[0, 19]])}, r"ids of the prompt run from 0 to 19, but .*vocab_size is 19"),
        ({"tokens": torch.tensor([[-3, 4]])}, r"run from -3 to 4"),
    ],
)
def test_bad_input(options: dict[str, Any], message: str) -> None:
    call: dict[str, Any] = {"tokens": torch.zeros(1, 2, dtype=torch.int64), "max_new_tokens": 3} | options
    with pytest.raises(ValueError, match=message):
        sharp().generate(**call)


def test_no_prompts() -> None:
    with pytest.raises(ValueError, match="no prompts"):
        generate_each(sharp(), [], 3, Sampling())


def test_a_prompt_beyond_the_rotary_range_is_refused_before_anything_is_read() -> None:
    decoder = sharp(rotary=Rotary.Config(max_length=10))
    assert decoder.generate(torch.zeros(1, 8, dtype=torch.int64), 2).shape == (1, 10)
    with pytest.raises(ValueError, match=r"rotary position 10, but Rotary\.Config\.max_length is 10"):
        decoder.generate(torch.zeros(1, 8, dtype=torch.int64), 3)


def test_without_a_stop_token_the_host_never_reads_from_the_device() -> None:
    """Apart from the check of the prompt: on a GPU each read makes the host wait."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Reads(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
            return func(*args, **(kwargs or {}))

    decoder, counts = sharp(), []
    for new in (2, 20):
        with Reads() as reads:
            decoder.generate(torch.randint(0, 19, (2, 4)), new, 0.8, seeded(), top_k=5, top_p=0.9)
        counts.append(reads.count)
    assert counts == [2, 2]  # lowest and highest id of the prompt


def test_a_logits_processor_sees_the_ids_so_far_and_confines_what_is_drawn() -> None:
    decoder, prompt = sharp(), torch.randint(0, 19, (2, 5))
    seen = []

    def even(ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        seen.append(ids.shape[1])
        odd = torch.arange(19) % 2 == 1
        return logits.masked_fill(odd, float("-inf"))

    for temperature in (0.0, 1.0):
        new = decoder.generate(prompt, 6, temperature, seeded(), logits_processor=even)[:, 5:]
        assert (new % 2 == 0).all()
    assert seen == [5, 6, 7, 8, 9, 10] * 2
    alone = generate_each(decoder, list(prompt), 6, Sampling(), logits_processor=even)
    assert torch.equal(torch.stack(alone), decoder.generate(prompt, 6, logits_processor=even))


def test_a_logits_processor_that_forbids_everything_or_changes_the_shape_is_named() -> None:
    decoder, prompt = sharp(), torch.randint(0, 19, (2, 5))
    with pytest.raises(ValueError, match=r"forbids every token after 5 tokens, in rows \[0, 1\]"):
        decoder.generate(prompt, 2, logits_processor=lambda ids, logits: torch.full_like(logits, float("-inf")))
    with pytest.raises(ValueError, match="one logit per token of the vocabulary"):
        decoder.generate(prompt, 2, logits_processor=lambda ids, logits: logits[:, :3])
