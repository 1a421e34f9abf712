"""The vision-language model: what it reads, what its losses count, what is frozen, errors."""

from __future__ import annotations

import pytest
import torch

from orchard.nn import Sampling
from orchard.nn.rollouts import rollouts
from orchard.papers.llava_reasoner.method import (
    Picture,
    Responses,
    Size,
    VisionLanguageModel,
    response_log_probs,
    sft_loss,
    vision_language_model,
)
from orchard.papers.llava_reasoner.method.vlm import unit_pixels

TINY = Size(8, 1, 2, 12)


def model(r: int = 2, normalise: bool = True) -> VisionLanguageModel:
    return vision_language_model(Picture(8, 12, patch=2, r=r), TINY, TINY, 11, 10, normalise).build()


def pictures(count: int = 2) -> torch.Tensor:
    return torch.randint(0, 256, (count, 8, 12, 3), dtype=torch.uint8)


def test_shapes_and_pixels() -> None:
    found, shown = model(), pictures()
    assert found.n == Picture(8, 12, patch=2, r=2).tokens == 6
    assert found.features(shown).shape == (2, 6, 4 * 8)
    assert found.see(shown).shape == (2, 6, 8)
    assert found(torch.zeros(2, 5, dtype=torch.long), found.see(shown)).shape == (2, 5, 11)
    assert unit_pixels(torch.tensor([[[[0, 255]]]], dtype=torch.uint8)).tolist() == [[[[-1.0, 1.0]]]]
    torch.testing.assert_close(found.see(unit_pixels(shown)), found.see(shown))


def test_the_connector_is_normalised_or_as_published() -> None:
    x = model().see(pictures())
    torch.testing.assert_close(x.mean(dim=-1), torch.zeros(2, 6), atol=1e-5, rtol=0)
    assert not any(isinstance(part, torch.nn.LayerNorm) for part in model(normalise=False).modules())


def test_each_vector_is_of_one_square_of_patches() -> None:
    found = model()
    x = torch.arange(4 * 6).float()[None, :, None].expand(1, 24, 8)
    found.vision.forward = lambda pixels: x  # type: ignore[method-assign]
    first = found.features(pictures(1))[0, 0].unflatten(0, (4, 8))[:, 0]
    assert first.tolist() == [0.0, 1.0, 6.0, 7.0]  # 4 x 6 patches, row by row


def test_the_picture_matters_and_the_future_does_not() -> None:
    found, tokens = model(), torch.randint(0, 11, (1, 6))
    torch.nn.init.normal_(found.decoder.embedding.weight)
    one, other = found.see(pictures(1)), found.see(pictures(1))
    assert not torch.allclose(found(tokens, one), found(tokens, other))
    changed = tokens.clone()
    changed[0, 4:] = (changed[0, 4:] + 1) % 11
    torch.testing.assert_close(found(tokens, one)[:, :4], found(changed, one)[:, :4])
    assert found(tokens).shape == (1, 6, 11)  # text alone


def test_responses_are_padded_on_the_right_and_counted_alone() -> None:
    batch = Responses.of([[1, 2], [3]], [[4], []], pad=9)
    assert batch.tokens.tolist() == [[1, 2, 4], [3, 9, 9]]
    assert batch.counts.tolist() == [[False, False, True], [False, False, False]]
    assert batch.to("cpu").tokens.tolist() == batch.tokens.tolist()


def test_padding_and_batch_change_no_log_probability() -> None:
    found, prefix = model(), model().see(pictures())
    prompts, responses = [[1, 2], [3, 4, 5]], [[6, 7, 8, 9], [10]]
    together = response_log_probs(found, Responses.of(prompts, responses), prefix)
    for i in range(2):
        batch = Responses.of(prompts[i : i + 1], responses[i : i + 1])
        alone = response_log_probs(found, batch, prefix[i : i + 1])
        torch.testing.assert_close(together[i].sum(), alone[0].sum())
    logits = found(torch.tensor([[3, 4, 5]]), prefix[1:])  # the one token of the second response comes after these
    torch.testing.assert_close(together[1].sum(), logits[0, -1].log_softmax(dim=-1)[10])
    assert (together != 0).sum(dim=1).tolist() == [4, 1]


def test_sft_loss_is_the_mean_over_tokens_of_responses() -> None:
    found = model()
    batch = Responses.of([[1], [2, 3]], [[4, 5, 6], [7]])
    expected = -response_log_probs(found, batch).sum() / 4
    torch.testing.assert_close(sft_loss(found, batch), expected)
    torch.nn.init.zeros_(found.decoder.embedding.weight)  # tied: every id is as likely
    assert sft_loss(found, batch).item() == pytest.approx(torch.tensor(11.0).log().item())


def test_rollouts_have_the_log_probs_of_a_forward_pass() -> None:
    found, prompts = model(), torch.randint(0, 11, (2, 3))
    torch.nn.init.normal_(found.decoder.embedding.weight)
    prefix = found.see(pictures()).detach()
    drawn = rollouts(
        found.decoder, prompts, 2, 5, Sampling(1.0), torch.Generator().manual_seed(0), prefix=prefix, stop_token=0
    )
    responses = [row for rows in drawn.rows() for row in rows]
    batch = Responses.of([row for row in prompts.tolist() for _ in range(2)], responses)
    again = response_log_probs(found, batch, prefix.repeat_interleave(2, dim=0)).sum(dim=1)
    torch.testing.assert_close(drawn.log_probs.sum(dim=-1).flatten(), again.detach(), atol=1e-5, rtol=1e-5)


def test_what_learns() -> None:
    batch = Responses.of([[1]], [[2, 3]])
    for frozen, learns in (
        (None, {"vision", "connector", "decoder"}),
        (False, {"connector", "decoder"}),
        (True, {"decoder"}),
    ):
        found = model()
        if frozen is not None:
            found.freeze(connector=frozen)
        sft_loss(found, batch, found.see(pictures(1))).backward()
        assert {name.split(".")[0] for name, p in found.named_parameters() if p.grad is not None} == learns


def test_errors() -> None:
    with pytest.raises(ValueError, match="r is 3 for 4 x 6 patches"):
        model(r=3)
    with pytest.raises(ValueError, match="1 prompts and 2 responses"):
        Responses.of([[1]], [[2], [3]])
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        Responses.of([[1], []], [[2], [3]])
    with pytest.raises(ValueError, match="all empty"):
        sft_loss(model(), Responses.of([[1]], [[]]))
    with pytest.raises(ValueError, match="give floats"):
        model().features(torch.zeros(1, 8, 8, 3))
