"""Batched sampling gives what each prompt gives alone: greedily token by token, drawn by its exact law."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from orchard.nn import Decoder, Sampling
from orchard.papers.sbp.method import sampling as module
from orchard.papers.sbp.method.models import Size, decoder
from orchard.papers.sbp.method.sampling import draw, sample_documents
from orchard.papers.sbp.runs.speed import without_cache

STOP = 1


def model(vocab: int, scale: float = 1.0) -> Decoder:
    """A decoder whose every layer matters and that is not sure of itself."""
    built: Decoder = decoder(Size(16, 2, 4, 2, 24, tie_embeddings=False), 0.0, vocab).build()
    with torch.no_grad():
        built.embedding.weight.mul_(50)
        for layer in built.layers:
            layer.attention.o_proj.weight.mul_(20)
            layer.feed_forward.down_proj.weight.mul_(20)
        built.head.weight.mul_(scale)
    return built.eval()


def prompts(count: int, vocab: int) -> list[np.ndarray]:
    """Of 1 to 14 tokens."""
    random = np.random.default_rng(3)
    return [random.integers(2, vocab, size=random.integers(1, 15)) for _ in range(count)]


def alone(built: Decoder, prompt: np.ndarray, cap: int) -> list[int]:
    made = built.generate(torch.from_numpy(prompt)[None], cap, stop_token=STOP)[0, len(prompt) :].tolist()
    return made[: made.index(STOP)] if STOP in made else made


@pytest.mark.parametrize("at_once", [3, 64])
def test_the_likeliest_tokens_are_those_of_generate(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECK", 2)
    built = model(7)
    asked = prompts(17, 7)
    bodies, ended = sample_documents(built, asked, 9, Sampling(0.0), torch.Generator(), STOP, at_once)
    expected = [alone(built, prompt, 9) for prompt in asked]
    assert [body.tolist() for body in bodies] == expected
    assert ended.tolist() == [len(body) < 9 for body in expected]
    assert 0 < ended.sum() < len(asked)  # some end, some do not


@pytest.mark.parametrize("sampling", [Sampling(1.0), Sampling(0.7, top_p=0.9), Sampling(1.3, top_k=4)], ids=str)
def test_documents_do_not_depend_on_batches_order_or_who_ends_first(
    sampling: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    built, asked = model(17), prompts(9, 17) + [np.array([2])] * 5  # equal prompts are read once
    found = []
    for at_once, check in [(64, 8), (3, 1), (64, 1), (1, 100)]:
        monkeypatch.setattr(module, "CHECK", check)
        generator = torch.Generator().manual_seed(5)
        found.append(sample_documents(built, asked, 7, sampling, generator, STOP, at_once))
    for bodies, ended in found[1:]:
        assert [body.tolist() for body in bodies] == [body.tolist() for body in found[0][0]]
        assert ended.tolist() == found[0][1].tolist()
    assert len({tuple(body) for body in found[0][0][-5:]}) > 1  # equal prompts, different numbers


@pytest.mark.parametrize("at_once", [1, 4])
def test_the_naive_loop_without_a_cache_writes_the_same_documents(at_once: int) -> None:
    built, asked = model(11), prompts(9, 11)
    ways = [
        sample_documents(built, asked, 8, Sampling(1.0), torch.Generator().manual_seed(7), STOP, at_once, decode)
        for decode in (None, without_cache)
    ]
    assert [body.tolist() for body in ways[0][0]] == [body.tolist() for body in ways[1][0]]
    assert ways[0][1].tolist() == ways[1][1].tolist()
    assert 0 < ways[0][1].sum() < len(asked)


def test_rows_that_have_ended_leave_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    built, sizes = model(13, 0.3), list[int]()
    monkeypatch.setattr(module, "CHECK", 1)
    features = built.features

    def counted(tokens: torch.Tensor, *rest: Any) -> torch.Tensor:
        sizes.append(len(tokens))
        return features(tokens, *rest)

    monkeypatch.setattr(built, "features", counted)
    _, ended = sample_documents(built, [np.array([2])] * 60, 200, Sampling(1.0), torch.Generator().manual_seed(1), STOP)
    assert ended.all()
    assert sizes[0] == 1
    assert sizes[1] == 60
    assert sizes[-1] < 15
    assert len(sizes) < 200  # and nothing is computed when all have ended


def test_drawn_documents_follow_the_models_exact_law() -> None:
    """Every document of at most two tokens is enumerated; its probability is a product of two softmaxes."""
    built, vocab, count = model(5), 5, 20_000
    prompt = np.array([3, 4, 2])
    generator = torch.Generator().manual_seed(11)
    bodies, ended = sample_documents(built, [prompt] * count, 2, Sampling(1.0), generator, STOP)
    with torch.no_grad():
        first = built(torch.from_numpy(prompt)[None])[0, -1].double().softmax(-1).numpy()
        after = {
            v: built(torch.tensor([[*prompt, v]]))[0, -1].double().softmax(-1).numpy()
            for v in range(vocab) if v != STOP
        }  # fmt: skip
    others = [v for v in range(vocab) if v != STOP]
    law = {(): first[STOP], **{(v,): first[v] * after[v][STOP] for v in others}}
    law |= {(v, w): first[v] * after[v][w] for v, w in itertools.product(others, others)}
    seen = dict.fromkeys(law, 0)
    for body in bodies:
        seen[tuple(body.tolist())] += 1
    assert sum(law.values()) == pytest.approx(1.0)
    assert ended.sum() == count - sum(n for body, n in seen.items() if len(body) == 2)
    assert stats.chisquare(list(seen.values()), count * np.array(list(law.values()))).pvalue > 0.01


@pytest.mark.parametrize("sampling", [Sampling(0.8), Sampling(1.0, top_p=0.7), Sampling(1.0, top_k=3)], ids=str)
def test_inversion_draws_from_the_filtered_law(sampling: Sampling) -> None:
    logits = torch.randn(1, 9, generator=torch.Generator().manual_seed(2)).mul(2)
    law = sampling.probabilities(logits)[0].double().numpy()
    law /= law.sum()
    uniforms = torch.rand(40_000, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    counts = np.bincount(draw(logits.expand(40_000, -1), sampling, uniforms).numpy(), minlength=9)
    assert (counts[law == 0] == 0).all()
    assert stats.chisquare(counts[law > 0], 40_000 * law[law > 0]).pvalue > 0.01


def test_no_prompts_give_no_documents() -> None:
    bodies, ended = sample_documents(model(13), [], 5, Sampling(1.0), torch.Generator(), STOP)
    assert bodies == []
    assert len(ended) == 0
