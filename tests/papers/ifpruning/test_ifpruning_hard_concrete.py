"""HardConcrete gates: their probabilities against sampling, the signs of the penalty, and a training that uses them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from orchard.papers.ifpruning.data.factgrid import FactGrid
from orchard.papers.ifpruning.experiments.arms import Study
from orchard.papers.ifpruning.experiments.profiles import PROFILES, Cell, Steps
from orchard.papers.ifpruning.method.models import Reader, Size
from orchard.papers.ifpruning.method.selectors import HardConcrete, ascended, expected_open, sampled, settled
from orchard.papers.ifpruning.runs.train import build, load
from orchard.runs import Store


@pytest.fixture(scope="module")
def study() -> Study:
    """A world of 16 keys and decoders of one layer."""
    corpus = FactGrid.Config(num_keys=16, num_values=5, queries=4, num_domains=4, group_size=2, seen=5)
    profile = dataclasses.replace(
        PROFILES["smoke"], size=Size(16, 1, 2, 2, 24, 6), reader=Reader(16, 1, 2, 16, 8), steps=Steps(2, 0, 3), batch_size=6, corpus=corpus
    )  # fmt: skip
    return Study(Cell(profile, corpus, corpus, 0))


def selector_of(study: Study) -> HardConcrete:
    reads = study.predictor()
    arm = study.pruned("concrete", HardConcrete.Config(backbone=reads.backbone, rank=reads.rank))
    torch.manual_seed(0)
    selector = build(arm, study.cell.corpus.build())[1]
    assert isinstance(selector, HardConcrete)
    return selector


@pytest.mark.parametrize("z", [-4.0, -1.6, 0.0, 2.5])
def test_expected_open_against_sampling(z: float) -> None:
    random = torch.Generator().manual_seed(3)
    draws = 200_000
    gates = sampled(torch.full((draws,), z), torch.rand(draws, generator=random))
    probability = expected_open(torch.tensor([z])).item()
    error = 4 * (probability * (1 - probability) / draws) ** 0.5
    assert (gates > 0).float().mean().item() == pytest.approx(probability, abs=error + 1e-6)


def test_gates_reach_both_ends_and_stay_between() -> None:
    gates = sampled(torch.zeros(10_001), torch.rand(10_001, generator=torch.Generator().manual_seed(0)))
    assert gates.min() == 0
    assert gates.max() == 1
    assert torch.equal(sampled(torch.zeros(2), torch.tensor([0.0, 1.0])), torch.tensor([0.0, 1.0]))  # no infinities
    assert torch.equal(settled(torch.tensor([-9.0, 0.0, 9.0])), torch.tensor([0.0, 0.5, 1.0]))


def test_ascended_climbs() -> None:
    p = torch.tensor([0.5, -2.0], requires_grad=True)
    (ascended(p) * torch.tensor([3.0, 4.0])).sum().backward()
    assert torch.equal(ascended(p), p)
    assert p.grad is not None
    assert torch.equal(p.grad, torch.tensor([-3.0, -4.0]))


@pytest.mark.parametrize(("level", "sign"), [(4.0, 1), (-9.0, -1)])
def test_penalty_moves_multipliers_and_gates(study: Study, level: float, sign: int) -> None:
    """Too many open: both multipliers rise, gates close. Too few: the first falls, the second still rises and opens gates."""
    selector = selector_of(study)
    selector.multipliers.data.copy_(torch.tensor([0.0, 0.02]))
    z = torch.full((3, 1, 1, 24), level, requires_grad=True)
    selector.price(expected_open(z).mean(dim=-1)).backward()
    grad = selector.multipliers.grad
    assert grad is not None
    assert sign * grad[0] < 0  # descent goes against the gradient
    assert grad[1] < 0
    assert z.grad is not None
    assert (sign * z.grad > 0).all()


def test_gates_begin_with_k_open(study: Study) -> None:
    selector = selector_of(study)
    examples = study.cell.corpus.build().batch("sft", 40, 0, 0)
    selector.calibrate(examples, torch.linspace(0, 1, 24)[None])
    share = expected_open(selector.logits(examples)).mean()
    assert share.item() == pytest.approx(6 / 24, abs=1e-5)


def test_penalty_is_nothing_at_the_target_and_in_evaluation(study: Study) -> None:
    selector = selector_of(study)
    selector.multipliers.data.fill_(1.0)
    assert selector.price(torch.full((2, 1, 1), 6 / 24)).item() == 0
    examples = study.cell.corpus.build().batch("sft", 5, 0, 0)
    gates = selector.eval()(examples)
    assert selector.penalty is None
    assert torch.equal(gates, selector(examples))  # no noise
    assert (gates > 0).sum(dim=-1).max() <= 6
    noisy = selector.train()(examples)
    assert selector.penalty is not None
    assert not torch.equal(noisy, selector(examples))
    assert (noisy > 0).sum(dim=-1).max() > 6  # how many are open is for training to find


def test_training_with_penalty(study: Study, tmp_path: Path) -> None:
    """The multiplier of the square, whose gradient has one sign only, has moved up: training has seen the penalty."""
    reads = study.predictor()
    concrete = HardConcrete.Config(backbone=reads.backbone, rank=reads.rank)
    arm = study.pruned("concrete", concrete).set(on_collapse="record")
    done = Store(tmp_path).compute(arm, "cpu")
    selector = load(done, arm)[1]
    assert isinstance(selector, HardConcrete)
    first, second = selector.multipliers
    assert first != 0
    assert second > 0
    assert set(done.result["gauge"]) >= {"within", "across", "union"}
