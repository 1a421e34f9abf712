"""The pipeline on plain lists: the fast stages do what it says, and its table of counts comes to the exact conditional."""

import random as randomness
from pathlib import Path

import numpy as np
import pytest
import torch

from orchard.papers.sbp.data.world import ConceptWorld
from orchard.papers.sbp.method import naive as method
from orchard.papers.sbp.method.documents import Documents
from orchard.papers.sbp.method.embedding import unit
from orchard.papers.sbp.method.naive import CountTable, Document
from orchard.papers.sbp.method.pairing import kept_pairs
from orchard.papers.sbp.method.rules import REASONS, Rules
from orchard.papers.sbp.method.search import ExactSearch
from orchard.papers.sbp.runs.checks import bodies, convergence_table, distance, embedded, listed_world, possible
from orchard.papers.sbp.runs.mix import Mix
from orchard.runs import Store

NEAR_DUP = ConceptWorld.Config(
    variant="near-dup", concepts=5, words=30, content=8, documents=61, held_out=20, kappa=0.2
)


def ragged(count: int, seed: int, most: int = 9) -> list[Document]:
    random = np.random.default_rng(seed)
    return [tuple(random.integers(4, 7, size=length).tolist()) for length in random.integers(0, most, size=count)]


@pytest.mark.parametrize(
    ("k", "alpha", "near_duplicate"), [(3, 0.2, 0.2), (8, -1.0, 0.3), (5, 0.5, 1.0), (1, 0.0, 0.3)]
)
def test_pairs_are_those_of_the_lists(k: int, alpha: float, near_duplicate: float) -> None:
    corpus = NEAR_DUP.build()
    documents = corpus.documents("train")
    counts = np.eye(corpus.symbols.vocab_size)[documents.padded(0)].sum(axis=1)
    noise = 0.05 * np.random.default_rng(k).normal(size=counts.shape)  # no two scores are equal
    vectors = unit((counts + noise).astype(np.float32))
    found = ExactSearch.Config().build().neighbours(vectors, k)
    wanted_near = method.neighbours(vectors.tolist(), k)
    assert found.near.tolist() == [[j for j, _ in row] for row in wanted_near]
    np.testing.assert_allclose(found.score, [[s for _, s in row] for row in wanted_near], atol=1e-6)
    pairs, left_out = kept_pairs(documents, np.arange(61), found, alpha, k, near_duplicate)
    wanted = method.pair(bodies(documents), vectors.tolist(), k, alpha, near_duplicate)
    assert set(zip(pairs["first"].tolist(), pairs["second"].tolist(), strict=True)) == {(i, j) for i, j, _ in wanted}
    assert left_out["pairs"] == len(wanted)
    assert 0 < len(wanted) <= 61 * k
    assert (left_out["near_duplicates"] > 0) == (near_duplicate < 1)


def test_rules_are_those_of_the_lists() -> None:
    real, made = ragged(60, seed=1, most=14), ragged(200, seed=2, most=14)
    made[7], made[8] = (*made[7], 2), real[3]
    judge: Rules = Rules.Config(percentile=90.0).build(real=Documents.of(real), corpus=NEAR_DUP.build())
    seeds = np.random.default_rng(3).integers(-1, 60, size=200)
    found = [REASONS[i] for i in judge.judge(Documents.of(made), np.ones(200, dtype=bool), seeds)]
    seen, wanted = set(real), []
    for document, seed in zip(made, seeds, strict=True):
        first = real[seed] if seed >= 0 else None
        wanted.append(method.rules(document, first, seen, judge.bound, special=(0, 1, 2, 3)))
        if wanted[-1] in ("kept", "duplicate"):
            seen.add(document)
    assert found == wanted
    assert set(wanted) >= {"kept", "empty", "control", "repetitive", "duplicate"}


def test_a_mixture_takes_as_much_as_the_lists(tmp_path: Path) -> None:
    corpus = NEAR_DUP.build()
    real = bodies(corpus.documents("train"))
    synthetic = bodies(NEAR_DUP.clone().set(corpus_seed=9).build().documents("train"))
    budget = 7 * sum(map(method.size, real)) + 5
    mixed = method.mixture(real, synthetic, budget, 0.1, randomness.Random(0))
    counts = {text: mixed.count(text) for text in set(mixed)}
    taken = method.fill(synthetic, round(0.1 * budget))
    assert len(taken) < len(synthetic)
    for text in set(taken) - set(real):
        assert counts[text] == taken.count(text)
    with pytest.raises(ValueError, match=r"61 synthetic documents do not fill 0\.9 of"):
        method.mixture(real, synthetic, budget, 0.9, randomness.Random(0))
    done = Store(tmp_path).compute(Mix.Config(corpus=NEAR_DUP, budget=budget, steps=7), "cpu").result
    alone = method.mixture(real, [], budget, 0.0, randomness.Random(0))
    assert done["tokens"] == budget <= sum(map(method.size, alone)) < budget + corpus.cap + 1
    order = Store(tmp_path).compute(Mix.Config(corpus=NEAR_DUP, budget=budget, steps=7), "cpu").tensors("order")
    assert len(order["document"]) == len(alone)


def test_counts_are_the_conditional() -> None:
    a, b, c = (4,), (5,), (6,)
    table = CountTable().pretrain([a, a, b, c]).tune([(a, b), (a, b), (a, c)])
    assert table.probability(a) == 0.5
    assert table.conditional(b, a) == pytest.approx(2 / 3)
    assert table.conditional(a, b) == table.probability(a)  # no pair begins with b
    drawn = [table.sample(a, randomness.Random(seed)) for seed in range(300)]
    assert set(drawn) == {b, c}
    assert drawn.count(b) / 300 == pytest.approx(2 / 3, abs=0.1)


def test_counts_come_to_the_exact_conditional_as_pairs_are_added() -> None:
    torch.set_num_threads(1)
    found = convergence_table((200, 800, 3200))
    ratio = found["distance"].to_numpy()[1:] / found["distance"].to_numpy()[:-1]
    assert (ratio < 0.65).all()  # 1/2, up to chance, at four times as many
    assert found["distance"].iloc[-1] < 0.07


def test_the_pipeline_on_lists_from_end_to_end() -> None:
    """Seeds from D and second documents from the counts: what is synthesised has the law sum_d1 P(d1) P(d2 | d1) = P(d2)."""
    world, random = listed_world(), np.random.default_rng(2)
    concepts = world.draw_concepts(240, random)
    documents = Documents.of(world.sample(concepts, random), concepts)
    texts = bodies(documents)
    vectors = iter(embedded(concepts, 3, random).tolist())
    found = method.sbp(
        texts, lambda _: next(vectors), budget=40_000, share=0.5, k=8, alpha=0.5, random=randomness.Random(0),
        near_duplicate=1.0,
    )  # fmt: skip
    assert all(concepts[i] == concepts[j] and i != j for i, j, _ in found.pairs)
    held = sum(map(method.size, found.synthetic))
    assert 20_000 <= held < 20_004
    assert 40_000 <= sum(method.size(text) * count for text, count in found.model.alone.items()) < 40_004
    every = possible(world)
    law = np.exp(world.log_marginal(every))
    shares = np.array([found.synthetic.count(text) / len(found.synthetic) for text in bodies(every)])
    assert np.abs(shares - law).sum() / 2 < 0.12
    assert float(law @ distance(world, found.synthesizer, every)) < 0.25
    kept = method.sbp(
        texts, lambda _: [1.0], 2_000, 0.5, 2, 0.5, randomness.Random(0), 1.0, keep=lambda second, first: second != first
    )  # fmt: skip
    assert held > sum(map(method.size, kept.synthetic)) >= 1_000
